#include "core/cpu/tile.h"

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/cpu/tile_avx512.h"
#include "core/math.h"

namespace strata::cpu {

namespace {

/// C (R, 16) = or += A (R, K) * B (K, 16); 6 x 16 floats fill AVX2's registers.
template <int R>
inline void block(float* C,
                  std::int64_t ldc,
                  const TileView<float>& A,
                  const float* B,
                  std::int64_t ldb,
                  std::int64_t K,
                  bool add) {
  float acc[R][kLanes];
  for (int m = 0; m < R; ++m) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      acc[m][l] = add ? C[m * ldc + l] : 0.f;
    }
  }
  for (std::int64_t k = 0; k < K; ++k) {
    const float* const b = B + k * ldb;
    const float* const column = A.data + k * A.column;
#pragma GCC unroll 6
    for (int m = 0; m < R; ++m) {
      const float a = column[m * A.row];
#pragma omp simd
      for (int l = 0; l < kLanes; ++l) {
        acc[m][l] = fma_(a, b[l], acc[m][l]);
      }
    }
  }
  for (int m = 0; m < R; ++m) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      C[m * ldc + l] = acc[m][l];
    }
  }
}

template <int R>
inline void blocks(float* C,
                   std::int64_t ldc,
                   const TileView<float>& A,
                   const float* B,
                   std::int64_t ldb,
                   std::int64_t M,
                   std::int64_t N,
                   std::int64_t K,
                   bool add) {
  for (std::int64_t n = 0; n < N; n += kLanes) {
    for (std::int64_t m = 0; m < M; m += R) {
      block<R>(C + m * ldc + n, ldc, {A.data + m * A.row, A.row, A.column}, B + n, ldb, K, add);
    }
  }
}

}  // namespace

void tile_product(float* C,
                  std::int64_t ldc,
                  const TileView<float>& A,
                  const float* B,
                  std::int64_t ldb,
                  std::int64_t M,
                  std::int64_t N,
                  std::int64_t K,
                  bool add) {
  if (isa_level() == IsaLevel::avx512) {
    return tile_product_avx512(C, ldc, A, B, ldb, M, N, K, add);
  }
  simd([=] {
    if (M % 6 == 0) {
      blocks<6>(C, ldc, A, B, ldb, M, N, K, add);
    } else {
      blocks<4>(C, ldc, A, B, ldb, M, N, K, add);
    }
  });
}

void tile_product(float* C,
                  std::int64_t ldc,
                  const TileView<bf16x2>& A,
                  const bf16x2* B,
                  std::int64_t ldb,
                  std::int64_t M,
                  std::int64_t N,
                  std::int64_t K,
                  bool add) {
  tile_product_avx512(C, ldc, A, B, ldb, M, N, K, add);
}

}  // namespace strata::cpu
