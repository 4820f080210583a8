#pragma once
#include "tests/support/twins/moments.h"

namespace strata::tests::twins {

/// Where eps stands and when the weight decays: `pytorch` decays first; `bnb` decays the new
/// weight, with pytorch's eps; `hf` scales by sqrt(bc2) / bc1 outside, eps as it is, and decays the
/// new one.
enum class Family : std::uint8_t { pytorch, bnb, hf };

struct AdamWSettings {
  Family family = Family::pytorch;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  Codec m_codec = Codec::f32, v_codec = Codec::f32;
  ZeroCode v_zero = ZeroCode::floor;  // v_floor
  SignGuard guard = SignGuard::off;
};

struct AdamState {
  Moment m, v;
};

inline AdamState adam_start(const AdamWSettings& s, std::size_t numel) {
  return {zero_moment(s.m_codec, Sign::both, numel), zero_moment(s.v_codec, Sign::positive, numel)};
}

/// Moments of one step before they are stored, and what they give: the change of the weight is
/// -lr * direction, where direction = correction * ratio.
struct AdamDirection {
  Vec m, v;
  Vec ratio;              // m / (sqrt(v) + eps), eps times sqrt(bc2) but for hf
  double correction = 1;  // sqrt(bc2) / bc1
  Vec direction;
  Encoded m_stored, v_stored;
};

/// What a kernel chose or cannot know exactly. Exponents: its fp8 exponents after the step, per
/// group. `g_terms`: magnitudes that the rounding errors of g are relative to, where g is computed.
struct AdamHints {
  std::span<const double> m_exponents, v_exponents, g_terms;
};

inline AdamDirection adam_direction(const AdamState& state,
                                    const Vec& g,
                                    const AdamWSettings& s,
                                    std::int64_t t,
                                    const AdamHints& hints = {}) {
  const double bc1 = 1 - std::pow(s.beta1, static_cast<double>(t));
  const double bc2 = 1 - std::pow(s.beta2, static_cast<double>(t));
  const double eps = s.family == Family::hf ? s.eps : s.eps * std::sqrt(bc2);
  AdamDirection out;
  out.m = decode(state.m);
  out.v = decode(state.v, s.v_zero);
  out.correction = std::sqrt(bc2) / bc1;
  Vec m_terms(g.size()), v_terms(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double size = std::abs(g[i]), term = hints.g_terms.empty() ? size : hints.g_terms[i];
    m_terms[i] = std::max(std::abs(out.m[i]), (1 - s.beta1) * std::max(size, term));
    out.m[i] = s.beta1 * out.m[i] + (1 - s.beta1) * g[i];
    out.v[i] = s.beta2 * out.v[i] + (1 - s.beta2) * g[i] * g[i];
    v_terms[i] = hints.g_terms.empty() ? 0 : (1 - s.beta2) * 2 * size * term;
    out.ratio.push_back(out.m[i] / (std::sqrt(out.v[i]) + eps));
    out.direction.push_back(out.correction * out.ratio[i]);
  }
  out.m_stored = encode(s.m_codec, Sign::both, out.m, m_terms, {s.guard, hints.m_exponents});
  out.v_stored =
      encode(s.v_codec, Sign::positive, out.v, v_terms, {SignGuard::off, hints.v_exponents});
  return out;
}

struct AdamWStep {
  Vec weights;
  AdamState state;
  AdamDirection adam;  // exact moments and the margins of their codes
};

/// adamw, adamw8bit (dynamic8), adamw4bit (four_bit) and coat_adamw (fp8) by the codecs. The change
/// uses the moments before they are stored.
inline AdamWStep adamw(const Vec& weights,
                       const AdamState& state,
                       const Vec& g,
                       const AdamWSettings& s,
                       double lr,
                       std::int64_t t,
                       const AdamHints& hints = {}) {
  AdamWStep out{weights, {}, adam_direction(state, g, s, t, hints)};
  const double kept = 1 - lr * s.weight_decay;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double change = lr * out.adam.direction[i];
    out.weights[i] =
        s.family == Family::pytorch ? weights[i] * kept - change : (weights[i] - change) * kept;
  }
  out.state = {out.adam.m_stored.state, out.adam.v_stored.state};
  return out;
}

}  // namespace strata::tests::twins
