#pragma once
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/subspace.h"

namespace strata::tests::twins {

/// galore: hf family, eps 1e-6. galore8bit: pytorch's eps of 1e-8 and dynamic8 codecs (small R:
/// f32).
struct GaLoreSettings {
  AdamWSettings adam{.family = Family::hf, .eps = 1e-6};  // its weight_decay is not used
  double scale = 0.25, weight_decay = 0;
};

inline GaLoreSettings galore8bit_settings() {
  GaLoreSettings out;
  out.adam.family = Family::pytorch;
  out.adam.eps = 1e-8;
  out.adam.m_codec = out.adam.v_codec = Codec::dynamic8;
  return out;
}

struct GaLoreStep {
  Matrix weights;
  AdamState state;  // of R, (L x r)
  Matrix projected;
  AdamDirection adam;
};

/// Adam on R = project(g), its direction projected back, decay of the new weight.
inline GaLoreStep galore(const Matrix& weights,
                         const AdamState& state,
                         const Matrix& g,
                         const Basis& basis,
                         const GaLoreSettings& s,
                         double lr,
                         std::int64_t t,
                         AdamHints hints = {}) {
  GaLoreStep out{weights, {}, project(g, basis), {}};
  const Vec terms = project_terms(g, basis);
  hints.g_terms = terms;
  out.adam = adam_direction(state, out.projected.values, s.adam, t, hints);
  out.state = {out.adam.m_stored.state, out.adam.v_stored.state};
  const Matrix back =
      project_back({out.projected.rows, out.projected.columns, out.adam.direction}, basis);
  for (std::size_t i = 0; i < weights.values.size(); ++i) {
    const double moved = weights.values[i] - lr * s.scale * back.values[i];
    out.weights.values[i] = moved - lr * s.weight_decay * moved;
  }
  return out;
}

}  // namespace strata::tests::twins
