#include "optim/side_norms.h"

#include "core/cpu/squares.h"

namespace strata::optim {

/// `count`: length of the short side of x.
void SideNorms::squared(const float* x, std::int64_t count, double* squares) const {
  shape_.right() ? cpu::row_squares(squares, x, shape_.a, count)
                 : cpu::column_squares(squares, x, count, shape_.b);
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
