#pragma once
#include <cstdint>

#include "core/cpu/squares.h"
#include "core/for_each.h"

namespace strata::optim {

using cpu::sum_of_squares;

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
