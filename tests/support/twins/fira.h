#pragma once
#include "tests/support/twins/galore.h"
#include "tests/support/twins/limiter.h"

namespace strata::tests::twins {

/// Residual G - B^T B G, or with the reference's scale inside, G - scale B^T B G.
enum class Residual : std::uint8_t { exact, compat };

struct FiraSettings {
  AdamWSettings adam{.family = Family::hf, .eps = 1e-6};  // its weight_decay is not used
  double scale = 0.25, weight_decay = 0, gamma = 1.01;
  Residual residual = Residual::exact;
};

struct FiraStep {
  Matrix weights;
  AdamState state;     // of R, (L x r)
  double limiter = 0;  // limited norm, the state of the next step
  Matrix residual;     // before its factors
  Vec factor;          // one per index of the long side
  AdamDirection adam;
};

namespace detail {

/// |N_j| / (|R_j| + 1e-8) for every index j of the long side.
inline Vec long_side_factors(const Matrix& r, const Vec& ratio) {
  Vec factor(r.rows);
  for (std::size_t j = 0; j < r.rows; ++j) {
    const std::span<const double> own(&ratio[j * r.columns], r.columns);
    factor[j] = norm(own) / (norm({&r.values[j * r.columns], r.columns}) + 1e-8);
  }
  return factor;
}

/// Index of the long side that an element of the weight belongs to.
inline std::size_t long_index(std::size_t element, std::size_t columns, Side side) {
  return side == Side::right ? element / columns : element % columns;
}

}  // namespace detail

/// GaLore and the residual, scaled for each index of the long side as Adam scales R, its growth
/// limited; decay of the new weight.
inline FiraStep fira(const Matrix& weights,
                     const AdamState& state,
                     double limiter,
                     const Matrix& g,
                     const Basis& basis,
                     const FiraSettings& s,
                     double lr,
                     std::int64_t t,
                     AdamHints hints = {}) {
  const Matrix r = project(g, basis);
  const Vec terms = project_terms(g, basis);
  hints.g_terms = terms;
  FiraStep out{weights, {}, 0, g, {}, adam_direction(state, r.values, s.adam, t, hints)};
  out.state = {out.adam.m_stored.state, out.adam.v_stored.state};
  out.factor = detail::long_side_factors(r, out.adam.ratio);
  const Matrix inside = project_back(r, basis);
  const Matrix back = project_back({r.rows, r.columns, out.adam.ratio}, basis);
  const double part = s.residual == Residual::exact ? 1 : s.scale;
  Matrix rest = g;
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    out.residual.values[i] = g.values[i] - part * inside.values[i];
    rest.values[i] =
        out.residual.values[i] * out.factor[detail::long_index(i, g.columns, basis.side)];
  }
  const Limited limited = limit_growth(norm(rest.values), limiter, s.gamma);
  out.limiter = limited.norm;
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    const double direction = s.scale * back.values[i] + limited.factor * rest.values[i];
    const double moved = weights.values[i] - lr * out.adam.correction * direction;
    out.weights.values[i] = moved - lr * s.weight_decay * moved;
  }
  return out;
}

}  // namespace strata::tests::twins
