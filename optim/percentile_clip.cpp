#include "optim/percentile_clip.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "optim/squares.h"

namespace strata::optim {
namespace {
constexpr std::int64_t kNorms = 100;
}  // namespace

StateField percentile_field() {
  return {"clip.norms", DType::f32, Granularity::whole(), kNorms};
}

double squared_norm(const SliceIn& grad, float scale) {
  return sum_of_squares_by_chunk(grad.f32(), grad.grad.numel(), scale);
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
