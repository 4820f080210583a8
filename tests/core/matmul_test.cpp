#include "core/matmul.h"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/parallel_for.h"
#include "core/philox.h"

namespace strata {
namespace {

/// Uniform in [-1, 1).
Tensor random_matrix(DType dtype, std::int64_t numel, std::uint64_t seed) {
  Tensor t = Tensor::zeros(dtype, {numel});
  const RandomKey key{.seed = seed};
  for (std::int64_t i = 0; i < numel; ++i) {
    const float x = 2.f * uniform(key.words(static_cast<std::uint64_t>(i))[0]) - 1.f;
    if (dtype == DType::f32) {
      t.data<float>()[i] = x;
    } else {
      t.data<bf16>()[i] = to_bf16(x);
    }
  }
  return t;
}

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
               (s.form == MatmulForm::ab ? " ab " : " abt ") + std::string(to_string(s.in)) +
               " to " + std::string(to_string(s.out)) +
               (c.mode == Accumulate::add ? " add" : " overwrite"));
  const Tensor A = random_matrix(s.in, s.batch * s.m * s.k, 1);
  const Tensor B = random_matrix(s.in, s.batch * s.k * s.n, 2);
  const Tensor C = random_matrix(s.out, s.batch * s.m * s.n, 3);
  const Tensor before = random_matrix(s.out, s.batch * s.m * s.n, 3);
  std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
  matmul(C, A, B, s, c.mode, scratch, compute_stream());
  const double ulp = s.out == DType::f32 ? 0x1p-23 : 0x1p-8;
  for (std::int64_t p = 0; p < s.batch; ++p) {
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < s.n; ++j) {
        const std::int64_t at = (p * s.m + i) * s.n + j;
        double sum = c.mode == Accumulate::add ? value(before, at) : 0.0;
        for (std::int64_t q = 0; q < s.k; ++q) {
          const std::int64_t b = s.form == MatmulForm::ab ? q * s.n + j : j * s.k + q;
          sum += value(A, (p * s.m + i) * s.k + q) * value(B, p * s.k * s.n + b);
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
                          Size{17, 40, 24, 6}}) {
    for (const MatmulForm form : {MatmulForm::ab, MatmulForm::abt}) {
      for (const DType in : {DType::f32, DType::bf16}) {
        for (const DType out : {DType::f32, DType::bf16}) {
          for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
            if (in == DType::f32 && out == DType::bf16) {
              continue;  // no step needs it
            }
            check({{size.m, size.n, size.k, size.batch, form, in, out}, mode});
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace strata
