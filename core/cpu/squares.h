#pragma once
#include <cstdint>

#include "core/cpu/matmul.h"

namespace strata::cpu {

/// A sum of squares is kept in so many lanes: element i in lane i % kSquareLanes.
inline constexpr std::int64_t kSquareLanes = 8;
inline double fold_squares(const double* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// Sum of (scale * x)^2 in eight lanes; inside a simd body. The square of a float is exact in
/// double and cannot overflow, so of floats with scale 1 the sum is finite exactly when every one
/// is.
template <class T>
inline double sum_of_squares(const T* x, std::int64_t n, T scale = T(1)) {
  double lanes[kSquareLanes] = {};
  const std::int64_t whole = n - n % kSquareLanes;
  for (std::int64_t i = 0; i < whole; i += kSquareLanes) {
    for (std::int64_t lane = 0; lane < kSquareLanes; ++lane) {
      const auto value = static_cast<double>(scale * x[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (std::int64_t i = whole; i < n; ++i) {
    const auto value = static_cast<double>(scale * x[i]);
    lanes[i - whole] += value * value;
  }
  return fold_squares(lanes);
}

/// squares[r] = sum_of_squares of row r of x (rows, columns). Opens the team.
void row_squares(double* squares, const float* x, std::int64_t rows, std::int64_t columns);
/// squares[c] = that of column c, added from the first row to the last. Opens the team.
void column_squares(double* squares, const float* x, std::int64_t rows, std::int64_t columns);

/// ProductSquares in passes of their own, for products that do not take them in passing.
void squares_apart(const ProductOperands& operands, const MatmulShape& shape);

}  // namespace strata::cpu
