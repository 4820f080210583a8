// Weights that the library may lay out as it likes give the bytes of plain ones, so that packing
// them once for many micro-batches is a matter of speed alone.
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <dnnl.hpp>
#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/matmul.h"
#include "core/parallel_for.h"
#include "tests/support/matmul_shapes.h"
#include "tests/support/run_self.h"

namespace strata {
namespace {

using dnnl::memory;

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

struct Prepacked {
  Tensor C;
  bool reordered = false;
  bool on_avx512 = false;
};

Prepacked multiply_prepacked(const Tensor& A, const Tensor& B, const MatmulShape& s) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::dims b_strides =
      s.form == MatmulForm::ab ? memory::dims{s.n, 1} : memory::dims{1, s.k};
  const memory::desc a({s.m, s.k}, type_of(s.in), memory::format_tag::ab);
  const memory::desc plain({s.k, s.n}, type_of(s.in), b_strides);
  const memory::desc any({s.k, s.n}, type_of(s.in), memory::format_tag::any);
  const memory::desc c({s.m, s.n}, type_of(s.out), memory::format_tag::ab);
  const dnnl::matmul::primitive_desc described(dnnl::matmul::desc(a, any, c), engine);
  Prepacked result{
      .C = Tensor::zeros(s.out, {s.m * s.n}),
      .reordered = described.weights_desc() != plain,
      .on_avx512 = std::string_view(described.impl_info_str()).starts_with("brg:avx512_core")};
  memory from(plain, engine, B.bytes()), to(described.weights_desc(), engine);
  dnnl::reorder(from, to).execute(stream, from, to);
  memory a_memory(a, engine, A.bytes()), c_memory(c, engine, result.C.bytes());
  dnnl::matmul(described).execute(
      stream, {{DNNL_ARG_SRC, a_memory}, {DNNL_ARG_WEIGHTS, to}, {DNNL_ARG_DST, c_memory}});
  stream.wait();
  return result;
}

void check(std::int64_t tokens, std::int64_t width) {
  int packed = 0;
  for (const tests::StepProduct& product : tests::step_products(tokens, width)) {
    for (const tests::ProductTypes types : tests::kProductTypes) {
      MatmulShape s = product.shape;
      s.bias = false;
      s.in = types.in;
      s.out = types.out;
      if (s.form == MatmulForm::atb) {  // what the library is given instead
        s.form = MatmulForm::ab;
      }
      const Tensor A = tests::random_values(s.in, s.m * s.k, 1);
      const Tensor B = tests::random_values(s.in, s.k * s.n, 2);
      const Tensor C = Tensor::zeros(s.out, {s.m * s.n});
      std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
      matmul(C, A, B, s, Accumulate::overwrite, scratch, compute_stream());
      const Prepacked other = multiply_prepacked(A, B, s);
      if (!other.on_avx512) {
        GTEST_SKIP() << "needs the library's AVX-512 kernels";
      }
      packed += other.reordered;
      EXPECT_EQ(std::memcmp(C.bytes(), other.C.bytes(), static_cast<std::size_t>(C.size_bytes())),
                0)
          << product.name << " m " << s.m << " n " << s.n << " k " << s.k << " " << to_string(s.in)
          << " to " << to_string(s.out);
    }
  }
  EXPECT_GT(packed, 0);
}

/// Products are the library's where ours have no instructions for them.
void check_of_library(const std::string& test, std::int64_t width) {
  if (cpu::isa_level() == cpu::IsaLevel::avx512) {
    EXPECT_EQ(tests::run_self(test, {{"STRATA_ISA", "avx2"}}), 0);
  } else {
    check(64, width);
  }
}

TEST(MatmulPrepack, GivesTheBytesOfPlainWeights) {
  check_of_library("MatmulPrepack.GivesTheBytesOfPlainWeights", 64);
}

TEST(MatmulPrepackSlow, GivesTheBytesOfPlainWeightsAtFullWidth) {
  check_of_library("MatmulPrepackSlow.GivesTheBytesOfPlainWeightsAtFullWidth",
                   std::int64_t{1} << 30);
}

}  // namespace
}  // namespace strata
