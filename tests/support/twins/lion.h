#pragma once
#include "tests/support/twins/moments.h"

namespace strata::tests::twins {

/// 0 for 0.
inline double sign_of(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

struct LionSettings {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0;
  Codec codec = Codec::f32;
};

struct LionStep {
  Vec weights;
  Moment m;
  Vec m_exact;
  Encoded m_stored;
  Vec blend;         // u, whose sign was taken
  Vec blend_margin;  // |u| in f32 ulps of its largest summand; kFar where both are zero
  Vec sign;
};

/// lion and lion8bit: decay, sign of the blend with the old m, then m with the other beta.
inline LionStep lion(const Vec& weights,
                     const Moment& m,
                     const Vec& g,
                     const LionSettings& s,
                     double lr,
                     std::span<const double> exponents = {}) {
  const std::size_t n = weights.size();
  LionStep out{Vec(n), {}, decode(m), {}, Vec(n), Vec(n), Vec(n)};
  Vec terms(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double old = s.beta1 * out.m_exact[i], now = (1 - s.beta1) * g[i];
    const double largest = std::max(std::abs(old), std::abs(now));
    out.blend[i] = old + now;
    out.blend_margin[i] = largest == 0 ? kFar : std::abs(out.blend[i]) / f32_ulp(largest);
    out.sign[i] = sign_of(out.blend[i]);
    out.weights[i] = weights[i] * (1 - lr * s.weight_decay) - lr * out.sign[i];
    terms[i] = std::max(std::abs(out.m_exact[i]), std::abs((1 - s.beta2) * g[i]));
    out.m_exact[i] = s.beta2 * out.m_exact[i] + (1 - s.beta2) * g[i];
  }
  out.m_stored = encode(s.codec, Sign::both, out.m_exact, terms, {SignGuard::off, exponents});
  out.m = out.m_stored.state;
  return out;
}

}  // namespace strata::tests::twins
