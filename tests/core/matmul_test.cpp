#include "core/matmul.h"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/error.h"
#include "tests/support/matmul_shapes.h"
#include "tests/support/run_self.h"

namespace strata {
namespace {

double value(const Tensor& t, std::int64_t i) {
  return t.dtype() == DType::f32 ? t.data<float>()[i] : to_float(t.data<bf16>()[i]);
}

struct Case {
  MatmulShape shape;
  Accumulate mode;
};

void check(const Case& c) {
  const MatmulShape& s = c.shape;
  SCOPED_TRACE("m " + std::to_string(s.m) + " n " + std::to_string(s.n) + " k " +
               std::to_string(s.k) + " batch " + std::to_string(s.batch) +
               (s.form == MatmulForm::ab    ? " ab "
                : s.form == MatmulForm::abt ? " abt "
                                            : " atb ") +
               std::string(to_string(s.in)) + " to " + std::string(to_string(s.out)) +
               (c.mode == Accumulate::add ? " add" : " overwrite") + (s.bias ? " bias" : ""));
  const Tensor A = tests::random_values(s.in, s.batch * s.m * s.k, 1);
  const Tensor B = tests::random_values(s.in, s.batch * s.k * s.n, 2);
  const Tensor C = tests::random_values(s.out, s.batch * s.m * s.n, 3);
  const Tensor before = tests::random_values(s.out, s.batch * s.m * s.n, 3);
  const Tensor bias = s.bias ? tests::random_values(s.in, s.n, 4) : Tensor();
  std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
  matmul(C, A, B, s, c.mode, scratch, compute_stream(), bias);
  const double ulp = s.out == DType::f32 ? 0x1p-23 : 0x1p-8;
  for (std::int64_t p = 0; p < s.batch; ++p) {
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < s.n; ++j) {
        const std::int64_t at = (p * s.m + i) * s.n + j;
        double sum = c.mode == Accumulate::add ? value(before, at) : 0.0;
        sum += s.bias ? value(bias, j) : 0.0;
        for (std::int64_t q = 0; q < s.k; ++q) {
          const std::int64_t b = s.form == MatmulForm::abt ? j * s.k + q : q * s.n + j;
          const std::int64_t a = s.form == MatmulForm::atb ? q * s.m + i : i * s.k + q;
          sum += value(A, p * s.m * s.k + a) * value(B, p * s.k * s.n + b);
        }
        // Terms are below 1; f32 sums of k of them err by a few ulp of their size.
        const double tolerance =
            0x1p-23 * static_cast<double>(s.k) + ulp * std::max(1.0, std::abs(sum));
        ASSERT_NEAR(value(C, at), sum, tolerance) << p << " " << i << " " << j;
      }
    }
  }
}

TEST(Matmul, AgreesWithFloat64OnOddSizes) {
  struct Size {
    std::int64_t m, n, k, batch;
  };
  for (const Size size : {Size{1, 1, 1, 1},
                          Size{1, 257, 64, 1},
                          Size{5, 7, 3, 1},
                          Size{33, 65, 129, 1},
                          Size{64, 31, 1000, 1},
                          Size{100, 1, 77, 1},
                          Size{300, 520, 20, 1},  // more than one tile where tiles are cut
                          Size{17, 40, 24, 6}}) {
    for (const MatmulForm form : {MatmulForm::ab, MatmulForm::abt, MatmulForm::atb}) {
      for (const tests::ProductTypes types : tests::kProductTypes) {
        for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
          for (const bool bias : {false, true}) {
            check({{size.m, size.n, size.k, size.batch, form, types.in, types.out, bias}, mode});
          }
        }
      }
    }
  }
}

TEST(Matmul, AgreesWithFloat64OnLesserInstructionSets) {
  EXPECT_EQ(tests::run_self("Matmul.AgreesWithFloat64OnOddSizes:Matmul.NamesItsKernel",
                            {{"STRATA_ISA", "avx2"}}),
            0);
}

TEST(Matmul, RefusesOperandsThatDoNotFit) {
  const Tensor six = Tensor::zeros(DType::f32, {6}), four = Tensor::zeros(DType::f32, {2, 2});
  const MatmulShape s{.m = 2, .n = 2, .k = 3};
  std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
  const auto run = [&](const Tensor& C, const Tensor& A, const Tensor& B) {
    matmul(C, A, B, s, Accumulate::overwrite, scratch, compute_stream());
  };
  EXPECT_NO_THROW(run(four, six, six));
  EXPECT_THROW(run(six, six, six), Error);
  EXPECT_THROW(run(four, four, six), Error);
  EXPECT_THROW(run(four, six, Tensor::zeros(DType::bf16, {6})), Error);
  EXPECT_THROW(matmul_scratch_bytes({.m = 1, .n = 1, .k = 1, .out = DType::bf16}), Error);
}

TEST(Transpose, MovesEveryElementOnce) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [r, c] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                               {1, 100},
                               {100, 1},
                               {63, 65},
                               {64, 128},
                               {257, 131}}) {
      const Tensor from = tests::random_values(dtype, r * c, 5).reshape({r, c});
      const Tensor to = Tensor::zeros(dtype, {c, r});
      transpose(to, from, r, c, compute_stream());
      for (std::int64_t i = 0; i < r * c; ++i) {
        ASSERT_EQ(value(to, i % c * r + i / c), value(from, i)) << r << " x " << c << " at " << i;
      }
    }
  }
}

TEST(Matmul, CountsWhatItRan) {
  const MatmulShape shape{.m = 7, .n = 11, .k = 13};
  const auto runs = [&](Accumulate mode) {
    std::int64_t n = 0;
    for (const ProductUse& use : product_uses()) {
      n += use.shape == shape && use.mode == mode ? use.runs : 0;
    }
    return n;
  };
  const std::int64_t before = runs(Accumulate::add), others = runs(Accumulate::overwrite);
  check({shape, Accumulate::add});
  check({shape, Accumulate::add});
  EXPECT_EQ(runs(Accumulate::add) - before, 2);
  EXPECT_EQ(runs(Accumulate::overwrite), others);
}

TEST(Matmul, NamesItsKernel) {
  const MatmulShape f32{.m = 300, .n = 260, .k = 32};
  MatmulShape narrow = f32;
  narrow.in = DType::bf16;
  const bool panels =
      cpu::isa_level() == cpu::IsaLevel::avx512 && matmul_library() != "plain loops";
  EXPECT_EQ(matmul_kernel(f32) == "strata:avx512 panels", panels);
  EXPECT_EQ(matmul_library().starts_with("avx512 panels, oneDNN") ||
                matmul_library().starts_with("f32 avx512 panels, oneDNN"),
            panels);
  EXPECT_NE(matmul_kernel(f32), "");
  EXPECT_EQ(matmul_kernel(f32).find("copies"), std::string::npos);
  const bool copies = matmul_kernel(narrow).find("on f32 copies") != std::string::npos;
  EXPECT_EQ(copies, !matmul_has_bf16() && matmul_library() != "plain loops");
}

}  // namespace
}  // namespace strata
