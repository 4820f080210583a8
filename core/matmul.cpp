#include "core/matmul.h"

#include <string>

#include "core/cpu/matmul.h"
#include "core/cpu/transpose.h"
#include "core/error.h"
#include "core/span_log.h"

namespace strata {

namespace {

void require_shape(const MatmulShape& s) {
  STRATA_ASSERT(s.m > 0 && s.n > 0 && s.k > 0 && s.batch > 0);
  STRATA_ASSERT(s.in == DType::f32 || s.in == DType::bf16);
  STRATA_ASSERT(s.out == DType::f32 || s.out == s.in);
}

void require_squares(const ProductSquares& squares, const MatmulShape& s) {
  const bool any = squares.rows_of_a != nullptr || squares.columns_of_b != nullptr;
  STRATA_ASSERT(!any || (s.in == DType::f32 && s.batch == 1));
  STRATA_ASSERT(squares.rows_of_a == nullptr || s.form != MatmulForm::atb);
  STRATA_ASSERT(squares.columns_of_b == nullptr || s.form != MatmulForm::abt);
}

void require_operand(const char* name, const Tensor& t, DType dtype, std::int64_t numel) {
  if (t.dtype() == dtype && t.numel() == numel && t.is_contiguous()) {
    return;
  }
  throw Error(Errc::internal,
              std::string("matmul: ") + name + " needs " + std::to_string(numel) + " contiguous " +
                  std::string(to_string(dtype)) + ", got " + std::string(to_string(t.dtype())) +
                  " " + to_string(t.shape()) + (t.is_contiguous() ? "" : " with strides"));
}

std::vector<ProductUse>& uses() {
  thread_local std::vector<ProductUse> all;
  return all;
}

ProductUse& use_of(const MatmulShape& shape, Accumulate mode) {
  for (ProductUse& use : uses()) {
    if (use.shape == shape && use.mode == mode) {
      return use;
    }
  }
  return uses().emplace_back(ProductUse{.shape = shape, .mode = mode});
}

}  // namespace

std::int64_t matmul_scratch_bytes(const MatmulShape& shape) {
  require_shape(shape);
  return cpu::product_scratch_bytes(shape);
}

void matmul(const Tensor& C,
            const Tensor& A,
            const Tensor& B,
            const MatmulShape& shape,
            Accumulate mode,
            std::span<std::byte> scratch,
            Stream& stream,
            const Tensor& bias,
            const ProductSquares& squares) {
  require_shape(shape);
  require_operand("A", A, shape.in, shape.batch * shape.m * shape.k);
  require_operand("B", B, shape.in, shape.batch * shape.k * shape.n);
  require_operand("C", C, shape.out, shape.batch * shape.m * shape.n);
  if (shape.bias) {
    require_operand("the bias", bias, shape.in, shape.n);
  }
  require_squares(squares, shape);
  STRATA_ASSERT(stream.lane() == Lane::compute);
  const std::int64_t start = steady_now_ns();
  cpu::product({C.bytes(), A.bytes(), B.bytes(), bias.bytes(), squares}, shape, mode, scratch);
  ProductUse& use = use_of(shape, mode);
  ++use.runs;
  use.nanoseconds += steady_now_ns() - start;
}

void transpose(
    const Tensor& to, const Tensor& from, std::int64_t r, std::int64_t c, Stream& stream) {
  STRATA_ASSERT(stream.lane() == Lane::compute);
  require_operand("the transposed matrix", from, from.dtype(), r * c);
  require_operand("the transposed copy", to, from.dtype(), r * c);
  cpu::transpose_matrix(to.bytes(), from.bytes(), r, c, size_bytes(from.dtype()));
}

std::vector<ProductUse> product_uses() {
  return uses();
}

std::string matmul_kernel(const MatmulShape& shape) {
  require_shape(shape);
  return cpu::product_kernel(shape);
}

bool matmul_reads_transposed(DType in) {
  return cpu::product_reads_transposed(in);
}

bool matmul_has_bf16() {
  return cpu::product_has_bf16();
}

std::string matmul_library() {
  return cpu::product_library();
}

}  // namespace strata
