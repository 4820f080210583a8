#pragma once
#include <cstdint>

#include "core/cpu/tile.h"

namespace strata::cpu {

// The register blocks and conversions that only intrinsics express: the 32 registers of AVX-512,
// and its instructions for bf16. Callers have asked isa_level() or has_bf16_dot().

void tile_product_avx512(float* C,
                         std::int64_t ldc,
                         const TileView<float>& A,
                         const float* B,
                         std::int64_t ldb,
                         std::int64_t M,
                         std::int64_t N,
                         std::int64_t K,
                         bool add);
void tile_product_avx512(float* C,
                         std::int64_t ldc,
                         const TileView<bf16x2>& A,
                         const bf16x2* B,
                         std::int64_t ldb,
                         std::int64_t M,
                         std::int64_t N,
                         std::int64_t K,
                         bool add);

/// Rounds to bf16. from: (rows, columns) f32 with `stride` floats a row, columns a multiple of 16.
/// Pairs of neighbours in a row: to (rows, columns / 2).
void pair_columns(
    bf16x2* to, const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns);
/// Pairs of neighbouring rows: to (rows / 2, columns), rows even.
void pair_rows(
    bf16x2* to, const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns);

}  // namespace strata::cpu
