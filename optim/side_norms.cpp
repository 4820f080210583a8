#include "optim/side_norms.h"

#include "core/math.h"

namespace strata::optim {

/// `count`: length of the short side of x.
void SideNorms::squared(const float* x, std::int64_t count, double* squares) const {
  const std::int64_t long_side = shape_.long_side();
  if (shape_.right()) {  // rows, each contiguous
    parallel_for(long_side, 1 + kChunk / count, [&](std::int64_t begin, std::int64_t end) {
      cpu::simd([&] {
        for (std::int64_t row = begin; row < end; ++row) {
          const float* const at = x + row * count;
          double lanes[8] = {};
          const std::int64_t even = count - count % 8;
          for (std::int64_t i = 0; i < even; i += 8) {
            for (std::int64_t lane = 0; lane < 8; ++lane) {
              const double value = at[i + lane];
              lanes[lane] = fma_(value, value, lanes[lane]);
            }
          }
          for (std::int64_t i = even; i < count; ++i) {
            const double value = at[i];
            lanes[i - even] = fma_(value, value, lanes[i - even]);
          }
          squares[row] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
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
