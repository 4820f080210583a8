#pragma once
#include "tests/support/twins/matrix.h"

namespace strata::tests::twins {

struct SgdSaiSettings {
  double momentum = 0.9, eps = 1e-8, weight_decay = 1e-2;
};

/// |g| / (unbiased deviation + eps), held in [1, 10 sqrt(n)]; 1 below two elements; 0 (not yet)
/// where the gradient is zero.
inline double gradient_snr(const Vec& g, double eps) {
  const double n = static_cast<double>(g.size()), length = norm(g);
  if (length == 0) {
    return 0;
  }
  if (g.size() < 2) {
    return 1;
  }
  double mean = 0, squared = 0;
  for (const double value : g) {
    mean += value / n;
  }
  for (const double value : g) {
    squared += (value - mean) * (value - mean);
  }
  return std::clamp(length / (std::sqrt(squared / (n - 1)) + eps), 1.0, 10 * std::sqrt(n));
}

struct SgdSaiStep {
  Vec weights, b;
  double snr = 0;
};

/// `snr`: of the step whose gradient was the first that is not zero; 0: none so far. The buffer
/// starts as the gradient of that step.
inline SgdSaiStep sgd_sai(const Vec& weights,
                          const Vec& b,
                          double snr,
                          const Vec& g,
                          const SgdSaiSettings& s,
                          double lr) {
  SgdSaiStep out{weights, b, snr == 0 ? gradient_snr(g, s.eps) : snr};
  for (std::size_t i = 0; i < g.size(); ++i) {
    out.b[i] = snr == 0 ? g[i] : s.momentum * b[i] + (1 - s.momentum) * g[i];
    out.weights[i] = weights[i] * (1 - lr * s.weight_decay) - lr * out.snr * out.b[i];
  }
  return out;
}

}  // namespace strata::tests::twins
