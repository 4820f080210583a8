#pragma once
#include <cstdint>

#include "core/bf16.h"

namespace strata::cpu {

/// Two neighbours along the inner dimension of a product: what one bf16 dot instruction multiplies.
struct bf16x2 {
  bf16 at[2];
};

/// A matrix read word by word: (i, k) at data[i * row + k * column]. Swapping the two strides
/// transposes it for free. A word is a float, or a pair of bf16 along the inner dimension.
template <class Word>
struct TileView {
  const Word* data;
  std::int64_t row, column;
};

/// M and N of a product are multiples of these, so that no register block is ragged.
inline constexpr std::int64_t kTileRows = 24, kTileColumns = 16;

// C (M, N) = or += A (M, K) * B (K, N), K counted in words. M: a multiple of 24, or of 16 where N
// is at most 48; N: of 16. On the calling thread. In f32 an element is one chain of fma in order of
// k on every instruction set; pairs need has_bf16_dot() and round as its instruction does.
void tile_product(float* C,
                  std::int64_t ldc,
                  const TileView<float>& A,
                  const float* B,
                  std::int64_t ldb,
                  std::int64_t M,
                  std::int64_t N,
                  std::int64_t K,
                  bool add);
void tile_product(float* C,
                  std::int64_t ldc,
                  const TileView<bf16x2>& A,
                  const bf16x2* B,
                  std::int64_t ldb,
                  std::int64_t M,
                  std::int64_t N,
                  std::int64_t K,
                  bool add);

}  // namespace strata::cpu
