#pragma once
#include "tests/support/twins/matrix.h"

namespace strata::tests::twins {

inline constexpr double kNewtonSchulz[] = {3.4445, -4.7750, 2.0315};

/// Five steps of the quintic on one singular value.
inline double newton_schulz_scalar(double x, int steps = 5) {
  const auto& [a, b, c] = kNewtonSchulz;
  for (int i = 0; i < steps; ++i) {
    const double square = x * x;
    x = x * (a + square * (b + c * square));
  }
  return x;
}

/// The same on a matrix divided by its Frobenius norm + 1e-7.
inline Matrix newton_schulz(const Matrix& x, int steps = 5) {
  if (x.rows > x.columns) {
    return transposed(newton_schulz(transposed(x), steps));
  }
  const auto& [a, b, c] = kNewtonSchulz;
  Matrix now = x;
  const double length = norm(x.values) + 1e-7;
  for (double& value : now.values) {
    value /= length;
  }
  for (int step = 0; step < steps; ++step) {
    const Matrix gram = product(now, transposed(now)), square = product(gram, gram);
    Matrix mix = gram;
    for (std::size_t i = 0; i < mix.values.size(); ++i) {
      mix.values[i] = b * gram.values[i] + c * square.values[i];
    }
    const Matrix turned = product(mix, now);
    for (std::size_t i = 0; i < now.values.size(); ++i) {
      now.values[i] = a * now.values[i] + turned.values[i];
    }
  }
  return now;
}

struct MuonSettings {
  enum class Scale : std::uint8_t { shape, moonlight };  // sqrt(max(1, rows/cols)); .2 sqrt(max)
  enum class Momentum : std::uint8_t { nesterov, plain };
  double beta = 0.95, weight_decay = 0;
  int steps = 5;
  Scale scale = Scale::shape;
  Momentum momentum = Momentum::nesterov;
};

struct MuonStep {
  Matrix weights, m;
  Matrix input;      // of Newton-Schulz
  Matrix direction;  // scaled: the change is -lr * direction, after decay
};

inline MuonStep muon(
    const Matrix& weights, const Matrix& m, const Matrix& g, const MuonSettings& s, double lr) {
  MuonStep out{weights, m, m, {}};
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    out.m.values[i] = s.beta * m.values[i] + (1 - s.beta) * g.values[i];
    out.input.values[i] = s.momentum == MuonSettings::Momentum::nesterov
                              ? (1 - s.beta) * g.values[i] + s.beta * out.m.values[i]
                              : out.m.values[i];
  }
  const double rows = static_cast<double>(g.rows), columns = static_cast<double>(g.columns);
  const double scale = s.scale == MuonSettings::Scale::shape
                           ? std::sqrt(std::max(1.0, rows / columns))
                           : 0.2 * std::sqrt(std::max(rows, columns));
  out.direction = newton_schulz(out.input, s.steps);
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    out.direction.values[i] *= scale;
    out.weights.values[i] =
        weights.values[i] * (1 - lr * s.weight_decay) - lr * out.direction.values[i];
  }
  return out;
}

}  // namespace strata::tests::twins
