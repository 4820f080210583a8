#pragma once
#include "tests/support/twins/moments.h"

namespace strata::tests::twins {

enum class Decay : std::uint8_t { coupled, decoupled };
enum class Lookahead : std::uint8_t { plain, nesterov };

struct SgdSettings {
  double momentum = 0, dampening = 0, weight_decay = 0;
  Decay decay = Decay::coupled;
  Lookahead lookahead = Lookahead::plain;
  Codec codec = Codec::f32;
};

struct SgdStep {
  Vec weights;
  Moment b;
  Vec b_exact;
  Encoded b_stored;
};

/// sgd and sgd8bit. The first step stores the gradient itself, undampened. Without momentum b
/// stays.
inline SgdStep sgd(const Vec& weights,
                   const Moment& b,
                   const Vec& g,
                   const SgdSettings& s,
                   double lr,
                   std::int64_t t,
                   std::span<const double> exponents = {}) {
  SgdStep out{weights, b, {}, {}};
  if (s.momentum != 0) {
    out.b_exact = decode(b);
  }
  Vec terms(out.b_exact.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    double d = g[i];
    double w = weights[i];
    if (s.decay == Decay::coupled) {
      d += s.weight_decay * w;
    } else {
      w *= 1 - lr * s.weight_decay;
    }
    if (s.momentum != 0) {
      double& sum = out.b_exact[i];
      terms[i] = std::max({std::abs(sum), std::abs(g[i]), std::abs(d)});
      sum = t == 1 ? d : s.momentum * sum + (1 - s.dampening) * d;
      d = s.lookahead == Lookahead::nesterov ? d + s.momentum * sum : sum;
    }
    out.weights[i] = w - lr * d;
  }
  if (s.momentum != 0) {
    out.b_stored = encode(s.codec, Sign::both, out.b_exact, terms, {SignGuard::off, exponents});
    out.b = out.b_stored.state;
  }
  return out;
}

}  // namespace strata::tests::twins
