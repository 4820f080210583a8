#pragma once
#include <algorithm>

namespace strata::tests::twins {

struct Limited {
  double factor = 1;  // multiplies the update
  double norm = 0;    // after it: the next step's `before`
};

/// Lets a norm grow by at most gamma a step. `before` <= 1e-12: no previous step.
inline Limited limit_growth(double norm, double before, double gamma = 1.01) {
  if (before <= 1e-12) {
    return {1, norm};
  }
  const double excess = std::max(norm / (before + 1e-8), gamma) / gamma;
  return {1 / excess, norm / excess};
}

}  // namespace strata::tests::twins
