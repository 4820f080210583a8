#include "optim/percentile_clip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/for_each.h"

namespace strata::optim {
namespace {
constexpr std::int64_t kNorms = 100;
}  // namespace

StateField percentile_field() {
  return {"clip.norms", DType::f32, Granularity::whole(), kNorms};
}

double squared_norm(const SliceIn& grad, float scale) {
  const float* const g = grad.f32();
  const std::int64_t numel = grad.grad.numel();
  double total = 0.0;
  for (std::int64_t begin = 0; begin < numel; begin += kChunk) {
    double lanes[8] = {};
    const std::int64_t end = std::min(numel, begin + kChunk);
    for (std::int64_t i = begin; i < end; ++i) {
      const double value = static_cast<double>(scale) * static_cast<double>(g[i]);
      lanes[i % 8] += value * value;
    }
    total += ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
             ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
  return total;
}

double percentile_scale(StateViews& state, double norm, int percentile, std::int64_t step) {
  float* const norms = state["clip.norms"].data<float>();
  const auto now = static_cast<float>(norm);
  if (step == 1) {
    std::fill(norms, norms + kNorms, now);
  } else {
    norms[step % kNorms] = now;
  }
  std::array<float, kNorms> sorted;
  std::copy(norms, norms + kNorms, sorted.begin());
  std::nth_element(sorted.begin(), sorted.begin() + percentile, sorted.end());
  const auto limit = static_cast<double>(sorted[static_cast<std::size_t>(percentile)]);
  return norm > limit ? limit / norm : 1.0;
}

}  // namespace strata::optim
