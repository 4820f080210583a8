#include "core/cpu/squares.h"

#include <algorithm>

#include "core/for_each.h"
#include "core/math.h"

namespace strata::cpu {

void row_squares(double* squares, const float* x, std::int64_t rows, std::int64_t columns) {
  parallel_for(rows, 1 + kChunk / columns, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t row = begin; row < end; ++row) {
        squares[row] = sum_of_squares(x + row * columns, columns);
      }
    });
  });
}

void column_squares(double* squares, const float* x, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kStrip = 256;
  parallel_for(columns, kStrip, [&](std::int64_t begin, std::int64_t end) {
    std::fill(squares + begin, squares + end, 0.0);
    simd([&] {
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* const at = x + row * columns;
        for (std::int64_t j = begin; j < end; ++j) {
          const double value = at[j];
          squares[j] = fma_(value, value, squares[j]);
        }
      }
    });
  });
}

void squares_apart(const ProductOperands& operands, const MatmulShape& shape) {
  if (operands.squares.rows_of_a != nullptr) {
    row_squares(
        operands.squares.rows_of_a, reinterpret_cast<const float*>(operands.A), shape.m, shape.k);
  }
  if (operands.squares.columns_of_b != nullptr) {
    column_squares(operands.squares.columns_of_b,
                   reinterpret_cast<const float*>(operands.B),
                   shape.k,
                   shape.n);
  }
}

}  // namespace strata::cpu
