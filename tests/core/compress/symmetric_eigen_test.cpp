#include "core/compress/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "core/philox.h"
#include "tests/support/errors.h"

namespace strata {
namespace {

using Matrix = std::vector<double>;

Matrix random_symmetric(std::int64_t n, std::uint64_t seed) {
  const RandomKey key{.seed = seed, .use = RandomUse::sampling};
  Matrix m(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const double x = uniform(key.words(static_cast<std::uint64_t>(i * n + j))[0]) - 0.5;
      m[static_cast<std::size_t>(i * n + j)] = m[static_cast<std::size_t>(j * n + i)] = x;
    }
  }
  return m;
}

Tensor f64(Matrix& m, const Shape& shape) {
  return {reinterpret_cast<std::byte*>(m.data()), DType::f64, shape};
}

struct Decomposition {
  Matrix values, vectors;
};
Decomposition decompose(Matrix matrix, std::int64_t n) {
  Decomposition d{Matrix(static_cast<std::size_t>(n)), Matrix(static_cast<std::size_t>(n * n))};
  std::vector<std::byte> workspace(static_cast<std::size_t>(symmetric_eigen_workspace_bytes(n)));
  symmetric_eigen(
      f64(d.values, {n}), f64(d.vectors, {n, n}), f64(matrix, {n, n}), workspace, compute_stream());
  return d;
}

/// Largest |A - V^T diag(values) V| and |V V^T - I|, and that the order is descending.
void expect_decomposes(const Matrix& A, const Decomposition& d, std::int64_t n, double size) {
  const auto at = [&](const Matrix& m, std::int64_t i, std::int64_t j) {
    return m[static_cast<std::size_t>(i * n + j)];
  };
  EXPECT_TRUE(std::is_sorted(d.values.rbegin(), d.values.rend()));
  const double tolerance = 4e-16 * static_cast<double>(n + 8);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      double product = 0.0, back = 0.0;
      for (std::int64_t k = 0; k < n; ++k) {
        product += at(d.vectors, i, k) * at(d.vectors, j, k);
        back += at(d.vectors, k, i) * d.values[static_cast<std::size_t>(k)] * at(d.vectors, k, j);
      }
      ASSERT_NEAR(product, i == j ? 1.0 : 0.0, tolerance) << i << " " << j;
      ASSERT_NEAR(back, at(A, i, j), tolerance * size) << i << " " << j;
    }
  }
}

TEST(SymmetricEigen, TakesRandomMatricesApart) {
  for (const std::int64_t n : {1, 2, 3, 5, 31, 32, 33, 64, 65, 130}) {
    SCOPED_TRACE(n);
    const Matrix A = random_symmetric(n, 7);
    expect_decomposes(A, decompose(A, n), n, std::sqrt(static_cast<double>(n)));
  }
}

TEST(SymmetricEigen, KnowsTheSecondDifference) {
  const std::int64_t n = 50;
  Matrix A(n * n);
  for (std::int64_t i = 0; i < n; ++i) {
    A[static_cast<std::size_t>(i * n + i)] = 2.0;
    if (i > 0) {
      A[static_cast<std::size_t>(i * n + i - 1)] = -1.0;  // the upper triangle is not read
    }
  }
  const Decomposition d = decompose(A, n);
  for (std::int64_t k = 0; k < n; ++k) {
    const double s = std::sin(static_cast<double>(n - k) * std::numbers::pi / (2.0 * (n + 1)));
    EXPECT_NEAR(d.values[static_cast<std::size_t>(k)], 4.0 * s * s, 1e-14);
  }
}

TEST(SymmetricEigen, SurvivesWhatIsDegenerate) {
  const std::int64_t n = 40;
  Matrix zero(n * n), identity(n * n), rank_one(n * n), blocks(n * n), graded(n * n);
  for (std::int64_t i = 0; i < n; ++i) {
    identity[static_cast<std::size_t>(i * n + i)] = 1.0;
    blocks[static_cast<std::size_t>(i * n + (i ^ 1))] = 3.0;
    for (std::int64_t j = 0; j < n; ++j) {
      rank_one[static_cast<std::size_t>(i * n + j)] = static_cast<double>((i + 1) * (j + 1)) / 1600;
      graded[static_cast<std::size_t>(i * n + j)] = std::pow(10.0, -static_cast<double>(i + j));
    }
  }
  for (const Matrix& A : {zero, identity, rank_one, blocks, graded}) {
    expect_decomposes(A, decompose(A, n), n, 20.0);
  }
}

TEST(SymmetricEigen, ScalesFromOneEndOfFloat64ToTheOther) {
  const std::int64_t n = 20;
  const Matrix A = random_symmetric(n, 3);
  const Decomposition d = decompose(A, n);
  for (const double power : {0x1p-1000, 0x1p-600, 0x1p600, 0x1p1000}) {
    Matrix scaled = A;
    std::transform(A.begin(), A.end(), scaled.begin(), [&](double x) { return x * power; });
    const Decomposition s = decompose(scaled, n);
    EXPECT_EQ(s.vectors, d.vectors);
    for (std::size_t i = 0; i < s.values.size(); ++i) {
      EXPECT_EQ(s.values[i], d.values[i] * power);
    }
  }
}

TEST(SymmetricEigen, MayOverwriteItsInput) {
  const std::int64_t n = 37;
  Matrix A = random_symmetric(n, 5);
  const Decomposition apart = decompose(A, n);
  Matrix values(n);
  std::vector<std::byte> workspace(static_cast<std::size_t>(symmetric_eigen_workspace_bytes(n)));
  const Tensor both = f64(A, {n, n});
  symmetric_eigen(f64(values, {n}), both, both, workspace, compute_stream());
  EXPECT_EQ(values, apart.values);
  EXPECT_EQ(A, apart.vectors);
}

TEST(SymmetricEigen, BitsDoNotDependOnThreads) {
  const std::int64_t n = 260;
  const Matrix A = random_symmetric(n, 11);
  const int before = thread_count();
  set_thread_count(1);
  const Decomposition one = decompose(A, n);
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    const Decomposition other = decompose(A, n);
    EXPECT_EQ(one.values, other.values);
    EXPECT_EQ(one.vectors, other.vectors);
  }
  set_thread_count(before);
}

TEST(SymmetricEigen, BitsDoNotDependOnInstructions) {
  const std::int64_t n = 70;
  const Matrix A = random_symmetric(n, 13);
  const cpu::IsaLevel best = cpu::isa_level();
  const Decomposition here = decompose(A, n);
  for (const cpu::IsaLevel level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2}) {
    cpu::force_isa_level(std::min(level, best));
    const Decomposition other = decompose(A, n);
    EXPECT_EQ(here.values, other.values) << cpu::to_string(level);
    EXPECT_EQ(here.vectors, other.vectors) << cpu::to_string(level);
  }
  cpu::force_isa_level(best);
}

TEST(SymmetricEigen, RefusesWhatIsNotFinite) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix A = random_symmetric(6, 1);
    A[2 * 6 + 1] = bad;
    tests::expect_error(Errc::numerics, {"(2, 1)", "finite"}, [&] { decompose(A, 6); });
  }
}

}  // namespace
}  // namespace strata
