#pragma once
#include "tests/support/twins/linear.h"

namespace strata::tests::twins {

struct SoapSettings {
  double beta1 = 0.95, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
  double statistics_beta = 0.95;  // of the two covariances; beta2 unless set
  std::int64_t period = 10;
  std::size_t largest_side = 10'000;  // a larger one is not turned
};

/// A covariance of one side and the basis it gives, vectors as columns; empty: not turned.
struct SoapSide {
  Matrix covariance, basis;
};

struct SoapState {
  SoapSide left, right;
  Matrix m, v;  // in the turned basis
  std::int64_t t = 0;
  bool started = false;
};

struct SoapStep {
  Matrix weights;
  SoapState state;
  double order_margin = kFar;  // least gap of neighbours when a basis was sorted, in f32 ulps
};

namespace detail {

inline Matrix turned(const Matrix& x, const Matrix& left, const Matrix& right) {
  const Matrix half = left.values.empty() ? x : product(transposed(left), x);
  return right.values.empty() ? half : product(half, right);
}

inline Matrix turned_back(const Matrix& x, const Matrix& left, const Matrix& right) {
  const Matrix half = left.values.empty() ? x : product(left, x);
  return right.values.empty() ? half : product(half, transposed(right));
}

inline void gather_covariance(SoapSide& side, const Matrix& gram, double beta) {
  for (std::size_t i = 0; i < side.covariance.values.size(); ++i) {
    double& value = side.covariance.values[i];
    value = beta * value + (1 - beta) * gram.values[i];
  }
}

/// Order of the basis by the covariance it sees, descending, and the step's least gap.
inline std::vector<std::size_t> sorted_order(const SoapSide& side, double& margin) {
  const Matrix seen = product(side.covariance, side.basis);
  Vec along(seen.columns);
  for (std::size_t j = 0; j < seen.columns; ++j) {
    for (std::size_t i = 0; i < seen.rows; ++i) {
      along[j] += side.basis.at(i, j) * seen.at(i, j);
    }
  }
  std::vector<std::size_t> order(along.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return along[a] > along[b];
  });
  for (std::size_t j = 0; j + 1 < order.size(); ++j) {
    const double high = along[order[j]], low = along[order[j + 1]];
    margin = std::min(margin, (high - low) / f32_ulp(high));
  }
  return order;
}

inline Matrix columns_in_order(const Matrix& x, const std::vector<std::size_t>& order) {
  Matrix out = x;
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.columns; ++j) {
      out.at(i, j) = x.at(i, order[j]);
    }
  }
  return out;
}

inline void start(SoapState& state, const Matrix& g, const SoapSettings& s) {
  const Matrix gt = transposed(g);
  for (const auto& [side, x] : {std::pair{&state.left, &g}, std::pair{&state.right, &gt}}) {
    if (x->rows <= s.largest_side) {
      side->covariance = zeros(x->rows, x->rows);
      gather_covariance(*side, gram_of_rows(*x), s.statistics_beta);
      side->basis = eigen(side->covariance).vectors;
    }
  }
  state.m = state.v = zeros(g.rows, g.columns);
  state.started = true;
}

/// Sorts both bases, turns them towards the covariances by one QR, and moves v and m along.
inline void refresh(SoapState& state, double& margin) {
  const Matrix m = turned_back(state.m, state.left.basis, state.right.basis);
  if (!state.right.basis.values.empty()) {
    const std::vector<std::size_t> order = sorted_order(state.right, margin);
    state.v = columns_in_order(state.v, order);
    const Matrix sorted = columns_in_order(state.right.basis, order);
    state.right.basis = qr_basis(product(state.right.covariance, sorted));
  }
  if (!state.left.basis.values.empty()) {
    const std::vector<std::size_t> order = sorted_order(state.left, margin);
    state.v = transposed(columns_in_order(transposed(state.v), order));
    const Matrix sorted = columns_in_order(state.left.basis, order);
    state.left.basis = qr_basis(product(state.left.covariance, sorted));
  }
  state.m = turned(m, state.left.basis, state.right.basis);
}

}  // namespace detail

/// Adam (hf family) in the eigenbasis of both covariances. The first gradient that is not zero only
/// starts them. Bases are judged by their vectors up to sign, m after turning back.
inline SoapStep soap(const Matrix& weights,
                     const SoapState& state,
                     const Matrix& g,
                     const SoapSettings& s,
                     double lr) {
  SoapStep out{weights, state, kFar};
  SoapState& now = out.state;
  if (!now.started) {
    if (norm(g.values) > 0) {
      detail::start(now, g, s);
    }
    return out;
  }
  const Matrix turned = detail::turned(g, now.left.basis, now.right.basis);
  const double t = static_cast<double>(++now.t);
  const double correction = std::sqrt(1 - std::pow(s.beta2, t)) / (1 - std::pow(s.beta1, t));
  Matrix ratio = turned;
  for (std::size_t i = 0; i < turned.values.size(); ++i) {
    const double x = turned.values[i];
    now.m.values[i] = s.beta1 * now.m.values[i] + (1 - s.beta1) * x;
    now.v.values[i] = s.beta2 * now.v.values[i] + (1 - s.beta2) * x * x;
    ratio.values[i] = now.m.values[i] / (std::sqrt(now.v.values[i]) + s.eps);
  }
  const Matrix direction = detail::turned_back(ratio, now.left.basis, now.right.basis);
  for (std::size_t i = 0; i < weights.values.size(); ++i) {
    const double moved = weights.values[i] - lr * correction * direction.values[i];
    out.weights.values[i] = moved - lr * s.weight_decay * moved;
  }
  if (!now.left.basis.values.empty()) {
    detail::gather_covariance(now.left, gram_of_rows(g), s.statistics_beta);
  }
  if (!now.right.basis.values.empty()) {
    detail::gather_covariance(now.right, gram_of_rows(transposed(g)), s.statistics_beta);
  }
  if (now.t % s.period == 0) {
    detail::refresh(now, out.order_margin);
  }
  return out;
}

}  // namespace strata::tests::twins
