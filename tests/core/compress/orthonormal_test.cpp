#include "core/compress/orthonormal.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "tests/support/matmul_shapes.h"

namespace strata {
namespace {

constexpr RandomKey kKey{.seed = 2, .use = RandomUse::subspace};

double value(const Tensor& t, std::int64_t i, std::int64_t j) {
  const std::int64_t at = i * t.shape().back() + j;
  return t.dtype() == DType::f32 ? static_cast<double>(t.data<float>()[at]) : t.data<double>()[at];
}

Tensor gram_of(const Tensor& rows) {
  const Tensor products = Tensor::zeros(DType::f64, {rows.shape()[0], rows.shape()[0]});
  gram(products, rows, compute_stream());
  return products;
}

TEST(Gram, IsThePlainSumInFloat64) {
  const cpu::IsaLevel best = cpu::isa_level();
  for (const std::int64_t m : {1, 3, 4, 5, 16, 18, 35}) {
    for (const std::int64_t n : {1, 7, 8, 9, 100}) {
      const Tensor rows = tests::random_values(DType::f32, m * n, 1).reshape({m, n});
      const Tensor products = gram_of(rows);
      cpu::force_isa_level(cpu::IsaLevel::base);
      const Tensor base = gram_of(rows);
      cpu::force_isa_level(best);
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < m; ++j) {
          double sum = 0.0;
          for (std::int64_t k = 0; k < n; ++k) {
            sum += value(rows, i, k) * value(rows, j, k);
          }
          ASSERT_NEAR(value(products, i, j), sum, 1e-14 * static_cast<double>(n)) << i << " " << j;
          ASSERT_EQ(value(products, i, j), value(products, j, i));
          ASSERT_EQ(value(products, i, j), value(base, i, j));
        }
      }
    }
  }
}

/// Row r becomes a combination of rows 0 to r, with a positive share of itself: what Householder
/// or Gram-Schmidt would give.
TEST(Orthonormalise, KeepsTheSpanOfTheFirstRows) {
  const std::int64_t m = 9, n = 20;
  const Tensor before = tests::random_values(DType::f32, m * n, 3).reshape({m, n});
  const Tensor rows = tests::random_values(DType::f32, m * n, 3).reshape({m, n});
  std::vector<std::byte> workspace(static_cast<std::size_t>(orthonormalise_workspace_bytes(m, n)));
  orthonormalise(rows, Passes::orthonormal, kKey, workspace, compute_stream());
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t later = r; later < m; ++later) {
      double share = 0.0;
      for (std::int64_t k = 0; k < n; ++k) {
        share += value(before, r, k) * value(rows, later, k);
      }
      if (later == r) {
        EXPECT_GT(share, 0.1);
      } else {
        EXPECT_NEAR(share, 0.0, 1e-5) << r << " " << later;
      }
    }
  }
}

TEST(Orthonormalise, ReplacesOnlyRowsThatOthersDetermine) {
  const std::int64_t n = 12;
  const Tensor rows = Tensor::zeros(DType::f32, {4, n});
  float* x = rows.data<float>();
  x[0] = 3.f;
  x[n] = -2.f;            // along the first
  x[2 * n + 1] = 1e-20f;  // small, and a direction of its own; the last row is zero
  std::vector<std::byte> workspace(static_cast<std::size_t>(orthonormalise_workspace_bytes(4, n)));
  orthonormalise(rows, Passes::orthonormal, kKey, workspace, compute_stream());
  const Tensor products = gram_of(rows);
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) {
      EXPECT_NEAR(value(products, i, j), i == j ? 1.0 : 0.0, 2e-6);
    }
  }
  EXPECT_NEAR(value(rows, 0, 0), 1.0, 1e-6);
  double second = 0.0;  // the second unit vector lies in the span of the first three rows
  for (std::int64_t i = 0; i < 3; ++i) {
    second += value(rows, i, 1) * value(rows, i, 1);
  }
  EXPECT_NEAR(second, 1.0, 1e-5);
}

}  // namespace
}  // namespace strata
