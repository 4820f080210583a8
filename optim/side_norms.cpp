#include "optim/side_norms.h"

#include "core/math.h"
#include "optim/squares.h"

namespace strata::optim {

/// `count`: length of the short side of x.
void SideNorms::squared(const float* x, std::int64_t count, double* squares) const {
  const std::int64_t long_side = shape_.long_side();
  if (shape_.right()) {  // rows, each contiguous
    parallel_for(long_side, 1 + kChunk / count, [&](std::int64_t begin, std::int64_t end) {
      cpu::simd([&] {
        for (std::int64_t row = begin; row < end; ++row) {
          squares[row] = sum_of_squares(x + row * count, count);
        }
      });
    });
    return;
  }
  constexpr std::int64_t kStrip = 256;
  parallel_for(long_side, kStrip, [&](std::int64_t begin, std::int64_t end) {
    std::fill(squares + begin, squares + end, 0.0);
    cpu::simd([&] {
      for (std::int64_t row = 0; row < count; ++row) {
        const float* const at = x + row * long_side;
        for (std::int64_t j = begin; j < end; ++j) {
          const double value = at[j];
          squares[j] = fma_(value, value, squares[j]);
        }
      }
    });
  });
}

void SideNorms::scale_tile(float* to,
                           const float* x,
                           std::int64_t begin,
                           std::int64_t n,
                           const double* by,
                           double all) const {
  for (std::int64_t i = 0; i < n;) {
    const std::int64_t row = (begin + i) / shape_.b, column = (begin + i) % shape_.b;
    const std::int64_t count = std::min(n - i, shape_.b - column);
    const auto row_scale = static_cast<float>(shape_.right() ? by[row] * all : 0.0);
    const double* const column_scale = by + (shape_.right() ? 0 : column);
    const bool right = shape_.right();
    cpu::simd([&] {
      if (right) {
        for (std::int64_t k = 0; k < count; ++k) {
          to[i + k] = row_scale * x[i + k];
        }
      } else {
        for (std::int64_t k = 0; k < count; ++k) {
          to[i + k] = static_cast<float>(column_scale[k] * all) * x[i + k];
        }
      }
    });
    i += count;
  }
}

}  // namespace strata::optim
