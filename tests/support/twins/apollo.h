#pragma once
#include "tests/support/twins/fira.h"

namespace strata::tests::twins {

struct ApolloSettings {
  enum class Scaling : std::uint8_t { channel, tensor };
  enum class ScaleAt : std::uint8_t { back, front };  // after or before the limiter
  enum class Growth : std::uint8_t { limited, free };
  AdamWSettings adam{.family = Family::hf, .eps = 1e-6};  // its weight_decay is not used
  Scaling scaling = Scaling::channel;
  double scale = 1;  // its root multiplies
  ScaleAt scale_at = ScaleAt::back;
  Growth growth = Growth::limited;
  double gamma = 1.01, weight_decay = 0;
};

inline ApolloSettings apollo_mini_settings() {
  ApolloSettings out;
  out.scaling = ApolloSettings::Scaling::tensor;
  out.scale = 128;
  return out;
}

struct ApolloStep {
  Matrix weights;
  AdamState state;     // of R, (L x r)
  double limiter = 0;  // limited norm, the state of the next step
  Vec factor;          // one per index of the long side; all alike for tensor scaling
  Matrix projected;
  AdamDirection adam;
};

/// `basis`: the random projection, N(0, 1/r). The gradient is scaled by what Adam does to its
/// projection, its growth limited before the bias corrections; decay of the new weight.
inline ApolloStep apollo(const Matrix& weights,
                         const AdamState& state,
                         double limiter,
                         const Matrix& g,
                         const Basis& basis,
                         const ApolloSettings& s,
                         double lr,
                         std::int64_t t,
                         AdamHints hints = {}) {
  ApolloStep out{weights, {}, 0, {}, project(g, basis), {}};
  const Vec terms = project_terms(g, basis);
  hints.g_terms = terms;
  out.adam = adam_direction(state, out.projected.values, s.adam, t, hints);
  out.state = {out.adam.m_stored.state, out.adam.v_stored.state};
  out.factor = detail::long_side_factors(out.projected, out.adam.ratio);
  if (s.scaling == ApolloSettings::Scaling::tensor) {
    const double whole = norm(out.adam.ratio) / (norm(out.projected.values) + 1e-8);
    out.factor.assign(out.factor.size(), whole);
  }
  const double root = std::sqrt(s.scale);
  const bool front = s.scale_at == ApolloSettings::ScaleAt::front;
  Matrix d = g;
  for (std::size_t i = 0; i < d.values.size(); ++i) {
    d.values[i] *= out.factor[detail::long_index(i, g.columns, basis.side)] * (front ? root : 1);
  }
  Limited limited{front ? 1 : root, limiter};
  if (s.growth == ApolloSettings::Growth::limited) {
    limited = limit_growth(norm(d.values), limiter, s.gamma);
    limited.factor *= front ? 1 : root;
  }
  out.limiter = limited.norm;
  for (std::size_t i = 0; i < d.values.size(); ++i) {
    const double change = lr * out.adam.correction * limited.factor * d.values[i];
    const double moved = weights.values[i] - change;
    out.weights.values[i] = moved - lr * s.weight_decay * moved;
  }
  return out;
}

}  // namespace strata::tests::twins
