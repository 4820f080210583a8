#pragma once
#include "tests/support/twins/formats.h"

namespace strata::tests::twins {

struct PercentileClip {
  Vec ring;           // the last 100 squared norms
  double factor = 1;  // multiplies the gradient
  double norm = 0, limit = 0;
};

/// Clips |g| at the root of the p-th smallest (from 0) of the last 100 squared norms, this step's
/// among them. The first step fills the ring; p = 100 never clips.
inline PercentileClip percentile_clip(const Vec& ring, const Vec& g, int p, std::int64_t t) {
  double squared = 0;
  for (const double value : g) {
    squared += value * value;
  }
  PercentileClip out{ring, 1, std::sqrt(squared), kFar};
  if (t == 1) {
    out.ring.assign(100, squared);
  } else {
    out.ring[static_cast<std::size_t>(t - 1) % 100] = squared;
  }
  if (p < 100) {
    Vec sorted = out.ring;
    std::sort(sorted.begin(), sorted.end());
    out.limit = std::sqrt(sorted[static_cast<std::size_t>(p)]);
    if (out.norm > out.limit) {
      out.factor = out.limit / out.norm;
    }
  }
  return out;
}

}  // namespace strata::tests::twins
