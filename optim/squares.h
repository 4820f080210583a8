#pragma once
#include <cstdint>

#include "core/cpu/simd.h"
#include "core/for_each.h"

namespace strata::optim {

/// Sum of (scale * x)^2 in eight lanes; inside a simd body. The square of a float is exact in
/// double and cannot overflow, so of floats with scale 1 the sum is finite exactly when every one
/// is.
template <class T>
inline double sum_of_squares(const T* x, std::int64_t n, T scale = T(1)) {
  constexpr std::int64_t kLanes = 8;
  double lanes[kLanes] = {};
  const std::int64_t whole = n - n % kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(scale * x[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (std::int64_t i = whole; i < n; ++i) {
    const auto value = static_cast<double>(scale * x[i]);
    lanes[i - whole] += value * value;
  }
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// The same of any number, chunk by chunk in order.
inline double sum_of_squares_by_chunk(const float* x, std::int64_t n, float scale = 1.f) {
  double total = 0.0;
  cpu::simd([&] {
    for (std::int64_t begin = 0; begin < n; begin += kChunk) {
      total += sum_of_squares(x + begin, n - begin < kChunk ? n - begin : kChunk, scale);
    }
  });
  return total;
}

}  // namespace strata::optim
