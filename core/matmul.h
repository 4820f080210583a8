#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/runtime.h"
#include "core/tensor.h"

namespace strata {

/// The only door to matrix products: our own panels on machines with AVX-512, the library for the
/// rest. Dense operands. The library's At*B splits the inner dimension by thread count, so
/// there it goes through a transposed copy (DESIGN 5.4).
enum class MatmulForm : std::uint8_t {
  ab,   // C (m, n) = A (m, k) * B (k, n)
  abt,  // C (m, n) = A (m, k) * B (n, k)^T
  atb,  // C (m, n) = A (k, m)^T * B (k, n)
};
struct MatmulShape {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;  // independent products, operands one after the other
  MatmulForm form = MatmulForm::ab;
  DType in = DType::f32;   // of A and B: f32 or bf16
  DType out = DType::f32;  // of C: f32, or bf16 when A and B are; products are summed in f32
  bool bias = false;       // a row of n values, of dtype `in`, is added before C is rounded
  friend bool operator==(const MatmulShape&, const MatmulShape&) = default;
};

/// A caller may cut the rows of A and C (not those of A^T) at multiples of this without changing a
/// bit.
inline constexpr std::int64_t kMatmulRowCut = 256;

/// Sums of squares along k in float64, in an order that k alone fixes: taken while the product
/// reads the operand, where its kernel can, so that a large one is not read twice. Of f32 operands
/// of one batch.
struct ProductSquares {
  double* rows_of_a = nullptr;     // (m), where A is not transposed
  double* columns_of_b = nullptr;  // (n), where B is not transposed
};

/// Scratch that matmul() needs for this shape and the present thread_count(), in bytes.
std::int64_t matmul_scratch_bytes(const MatmulShape& shape);

/// C = A * B or C += A * B, plus the bias in every row if the shape says so. C, A, B: contiguous,
/// batch * m * n etc. elements. B is laid out as the kernel likes it, in the scratch, where that
/// pays.
/// Primitives are made once per shape and kept. The bits depend on the shape and the machine's
/// instructions alone: not on threads, on row cuts at multiples of kMatmulRowCut, or on what ran
/// before. Throws internal on size or dtype mismatch.
void matmul(const Tensor& C,
            const Tensor& A,
            const Tensor& B,
            const MatmulShape& shape,
            Accumulate mode,
            std::span<std::byte> scratch,
            Stream& stream,
            const Tensor& bias = {},
            const ProductSquares& squares = {});

/// A product, how often matmul() has run it on this thread, and how long that took.
struct ProductUse {
  MatmulShape shape;
  Accumulate mode = Accumulate::overwrite;
  std::int64_t runs = 0, nanoseconds = 0;
};
/// Every product prepared on this thread so far, for benchmarks: the difference of two calls is
/// what ran in between.
std::vector<ProductUse> product_uses();

/// What computes the products, with the library's version: part of the numeric environment of a
/// run.
std::string matmul_library();

/// The kernel that computes C = A * B of this shape: "strata:avx512 panels", or the library's name
/// of its own, "brg:avx512_core_bf16", and whether it runs "in tiles" of ours or "on f32 copies".
/// For people: what is in use here.
std::string matmul_kernel(const MatmulShape& shape);

/// Whether A^T * B reads an A of this dtype as it lies; where not, matmul() makes a transposed
/// copy, and a caller that can make one in passing saves that.
bool matmul_reads_transposed(DType in);

/// Whether bf16 operands are multiplied by instructions for them, not on f32 copies.
bool matmul_has_bf16();

/// to (c, r) = from (r, c) transposed; same dtype, both contiguous.
void transpose(
    const Tensor& to, const Tensor& from, std::int64_t r, std::int64_t c, Stream& stream);

}  // namespace strata
