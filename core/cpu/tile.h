#pragma once
#include <cstdint>

#include "core/cpu/lanes.h"
#include "core/math.h"

namespace strata::cpu {

/// A matrix in f32 read element by element: (i, j) at data[i * row + j * column]. Swapping the two
/// strides transposes it for free.
struct TileView {
  const float* data;
  std::int64_t row, column;
};

/// Rows of C that one register block holds: 6 x 16 floats fill AVX2's registers and still hide the
/// latency of fma on AVX-512.
inline constexpr std::int64_t kTileRows = 6;

/// C (6, 16) = or += A (6, K) * B (K, 16). Each element is one chain of fma in order of k, whatever
/// the instruction set.
inline void tile_block(float* C,
                       std::int64_t ldc,
                       const TileView& A,
                       const float* B,
                       std::int64_t ldb,
                       std::int64_t K,
                       bool add) {
  float acc[kTileRows][kLanes];
  for (std::int64_t m = 0; m < kTileRows; ++m) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      acc[m][l] = add ? C[m * ldc + l] : 0.f;
    }
  }
  for (std::int64_t k = 0; k < K; ++k) {
    const float* const b = B + k * ldb;
    const float* const column = A.data + k * A.column;
#pragma GCC unroll 6
    for (std::int64_t m = 0; m < kTileRows; ++m) {
      const float a = column[m * A.row];
#pragma omp simd
      for (int l = 0; l < kLanes; ++l) {
        acc[m][l] = fma_(a, b[l], acc[m][l]);
      }
    }
  }
  for (std::int64_t m = 0; m < kTileRows; ++m) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      C[m * ldc + l] = acc[m][l];
    }
  }
}

/// C (M, N) = or += A (M, K) * B (K, N); inside a simd body. M: multiple of 6; N: of 16.
inline void tile_product(float* C,
                         std::int64_t ldc,
                         const TileView& A,
                         const float* B,
                         std::int64_t ldb,
                         std::int64_t M,
                         std::int64_t N,
                         std::int64_t K,
                         bool add) {
  for (std::int64_t n = 0; n < N; n += kLanes) {
    for (std::int64_t m = 0; m < M; m += kTileRows) {
      tile_block(C + m * ldc + n, ldc, {A.data + m * A.row, A.row, A.column}, B + n, ldb, K, add);
    }
  }
}

}  // namespace strata::cpu
