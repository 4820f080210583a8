#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/matmul.h"

namespace strata::cpu {

/// The product of core/matmul.h on checked operands: core/cpu/panel_product.h where there is
/// AVX-512, else oneDNN, or a plain loop in builds whose sanitizer cannot see into the library.
std::int64_t product_scratch_bytes(const MatmulShape& shape);
struct ProductOperands {
  std::byte* C;
  const std::byte *A, *B;
  const std::byte* bias;  // where the shape has one
  ProductSquares squares = {};
};
void product(const ProductOperands& operands,
             const MatmulShape& shape,
             Accumulate mode,
             std::span<std::byte> scratch);

/// Name and version of what computes the products.
std::string product_library();
/// What core/matmul.h tells of a shape, of A^T * B and of bf16.
std::string product_kernel(const MatmulShape& shape);
bool product_reads_transposed(DType in);
bool product_has_bf16();

}  // namespace strata::cpu
