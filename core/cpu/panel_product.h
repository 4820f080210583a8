#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cpu/matmul.h"

namespace strata::cpu {

/// The product of machines with AVX-512, of bf16 where that has its dot products, by panels
/// (core/cpu/panel_avx512.h). Each thread takes a rectangle of C and packs for itself what it
/// reads, while it multiplies. k is cut in blocks that depend on k alone, and their sums are added
/// in order, in f32: bits depend on the shape alone, and A^T * B needs no transposed copy. Not of
/// bf16 A * B^T with an odd k.
bool has_panel_product(const MatmulShape& shape);
std::int64_t panel_product_scratch_bytes(const MatmulShape& shape);
void panel_product(const ProductOperands& operands,
                   const MatmulShape& shape,
                   Accumulate mode,
                   std::span<std::byte> scratch);

}  // namespace strata::cpu
