#pragma once
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/lion.h"
#include "tests/support/twins/subspace.h"

namespace strata::tests::twins {

struct FrugalSettings {
  enum class Rest : std::uint8_t { sign, sgd, none };
  AdamWSettings adam;  // pytorch's eps; its weight_decay is not used
  Rest rest = Rest::sign;
  double weight_decay = 0;
  double projectable_scale = 1;  // c_p, on the learning rate of the whole matrix
  double rest_scale = 1;         // c_f, on that of the rest
};

/// Moments of the active part and its steps since they were reset.
struct FrugalState {
  AdamState adam;
  std::int64_t t = 0;
};

inline FrugalState frugal_start(const FrugalSettings& s, std::size_t active) {
  return {adam_start(s.adam, active), 0};
}

struct FrugalStep {
  Vec weights;
  FrugalState state;
  AdamDirection adam;
  Vec rest;         // gradient outside of the active part
  Vec rest_margin;  // |rest| in f32 ulps of its largest summand; kFar where it is no difference
};

namespace detail {

inline double rest_step(double z, const FrugalSettings& s) {
  switch (s.rest) {
    case FrugalSettings::Rest::sign:
      return s.rest_scale * sign_of(z);
    case FrugalSettings::Rest::sgd:
      return s.rest_scale * z;
    case FrugalSettings::Rest::none:
      break;
  }
  return 0;
}

}  // namespace detail

/// `active`: elements of the weight in the order of the stored moments. On a refresh the caller
/// passes frugal_start().
inline FrugalStep frugal(const Vec& weights,
                         const FrugalState& state,
                         const Vec& g,
                         std::span<const std::size_t> active,
                         const FrugalSettings& s,
                         double lr,
                         const AdamHints& hints = {}) {
  Vec chosen;
  for (const std::size_t i : active) {
    chosen.push_back(g[i]);
  }
  const std::int64_t t = state.t + 1;
  FrugalStep out{weights, {}, adam_direction(state.adam, chosen, s.adam, t, hints), g, {}};
  out.state = {{out.adam.m_stored.state, out.adam.v_stored.state}, t};
  out.rest_margin.assign(g.size(), kFar);
  Vec direction(g.size());
  for (std::size_t k = 0; k < active.size(); ++k) {
    out.rest[active[k]] = 0;
    direction[active[k]] = out.adam.direction[k];
  }
  for (std::size_t i = 0; i < g.size(); ++i) {
    direction[i] += detail::rest_step(out.rest[i], s);
    out.weights[i] =
        weights[i] * (1 - lr * s.weight_decay) - lr * s.projectable_scale * direction[i];
  }
  return out;
}

/// The same with an orthonormal basis as active part.
inline FrugalStep frugal(const Matrix& weights,
                         const FrugalState& state,
                         const Matrix& g,
                         const Basis& basis,
                         const FrugalSettings& s,
                         double lr,
                         AdamHints hints = {}) {
  const Matrix r = project(g, basis);
  const Vec terms = project_terms(g, basis);
  hints.g_terms = terms;
  const std::int64_t t = state.t + 1;
  FrugalStep out{
      weights.values, {}, adam_direction(state.adam, r.values, s.adam, t, hints), {}, {}};
  out.state = {{out.adam.m_stored.state, out.adam.v_stored.state}, t};
  const Matrix inside = project_back(r, basis);
  const Matrix direction = project_back({r.rows, r.columns, out.adam.direction}, basis);
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    const double z = g.values[i] - inside.values[i];
    const double largest = std::max(std::abs(g.values[i]), std::abs(inside.values[i]));
    out.rest.push_back(z);
    out.rest_margin.push_back(largest == 0 ? kFar : std::abs(z) / f32_ulp(largest));
    out.weights[i] = weights.values[i] * (1 - lr * s.weight_decay) -
                     lr * s.projectable_scale * (direction.values[i] + detail::rest_step(z, s));
  }
  return out;
}

/// Elements of the chosen columns, row by row.
inline std::vector<std::size_t> elements_of_columns(std::size_t rows,
                                                    std::size_t columns,
                                                    std::span<const std::size_t> chosen) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < rows; ++i) {
    for (const std::size_t j : chosen) {
      out.push_back(i * columns + j);
    }
  }
  return out;
}

/// Elements of the chosen rows, row by row.
inline std::vector<std::size_t> elements_of_rows(std::size_t columns,
                                                 std::span<const std::size_t> chosen) {
  std::vector<std::size_t> out;
  for (const std::size_t i : chosen) {
    for (std::size_t j = 0; j < columns; ++j) {
      out.push_back(i * columns + j);
    }
  }
  return out;
}

}  // namespace strata::tests::twins
