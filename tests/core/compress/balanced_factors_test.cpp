#include "core/compress/balanced_factors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/parallel_for.h"
#include "tests/support/matmul_shapes.h"
#include "tests/support/twins/matrix.h"

namespace strata {
namespace {

using tests::twins::Matrix;

/// left (a, r), right (r, b).
struct Factors {
  Tensor left, right;
  std::int64_t a() const { return left.shape()[0]; }
  std::int64_t r() const { return left.shape()[1]; }
  std::int64_t b() const { return right.shape()[1]; }
};

Factors random_factors(std::int64_t a, std::int64_t r, std::int64_t b) {
  return {tests::random_values(DType::f32, a * r, 1).reshape({a, r}),
          tests::random_values(DType::f32, r * b, 2).reshape({r, b})};
}

/// Factors as training leaves them: one much larger, columns of sizes over three decades.
Factors uneven_factors(std::int64_t a, std::int64_t r, std::int64_t b) {
  Factors f = random_factors(a, r, b);
  for (std::int64_t k = 0; k < r; ++k) {
    const auto size = static_cast<float>(std::pow(10.0, -3.0 * static_cast<double>(k) / 8));
    for (std::int64_t i = 0; i < a; ++i) {
      f.left.data<float>()[i * r + k] *= 100.f * size;
    }
  }
  return f;
}

Matrix wide(const Tensor& t) {
  Matrix out{static_cast<std::size_t>(t.shape()[0]), static_cast<std::size_t>(t.shape()[1]), {}};
  out.values.assign(t.data<float>(), t.data<float>() + t.numel());
  return out;
}

Matrix product_of(const Factors& f) {
  return product(wide(f.left), wide(f.right));
}

double distance(const Matrix& x, const Matrix& y) {
  std::vector<double> difference(x.values.size());
  for (std::size_t i = 0; i < difference.size(); ++i) {
    difference[i] = x.values[i] - y.values[i];
  }
  return tests::twins::norm(difference);
}

void balance(const Factors& f) {
  std::vector<std::byte> workspace(
      static_cast<std::size_t>(balance_factors_workspace_bytes(f.a(), f.b(), f.r())));
  balance_factors(f.left, f.right, workspace, compute_stream());
}

void expect_balanced(const Factors& f, const Matrix& before) {
  const double size = tests::twins::norm(before.values);
  EXPECT_LE(distance(product_of(f), before), 1e-5 * size);
  const Matrix left = wide(f.left), right = wide(f.right);
  const Matrix of_left = product(transposed(left), left);
  const Matrix of_right = product(right, transposed(right));
  const std::vector<double> s = tests::twins::svd(before).s;
  for (std::size_t i = 0; i < of_left.rows; ++i) {
    for (std::size_t j = 0; j < of_left.rows; ++j) {
      const double want = i != j || i >= s.size() ? 0.0 : s[i];
      EXPECT_NEAR(of_left.at(i, j), want, 2e-6 * s[0]) << i << " " << j;
      EXPECT_NEAR(of_right.at(i, j), want, 2e-6 * s[0]) << i << " " << j;
    }
  }
}

TEST(BalanceFactors, KeepsTheProductAndSharesItsSingularValues) {
  for (const auto& [a, r, b] : {std::array<std::int64_t, 3>{40, 8, 30},
                                {30, 8, 150},
                                {8, 8, 8},
                                {129, 33, 70},
                                {5, 1, 9},
                                {1, 1, 1}}) {
    for (const Factors& f : {random_factors(a, r, b), uneven_factors(a, r, b)}) {
      SCOPED_TRACE(a);
      const Matrix before = product_of(f);
      balance(f);
      expect_balanced(f, before);
    }
  }
}

TEST(BalanceFactors, AProductMayLackDirections) {
  Factors f = random_factors(40, 8, 30);
  for (std::int64_t i = 0; i < 40; ++i) {  // column 3 is column 1, column 5 is nothing
    f.left.data<float>()[i * 8 + 3] = f.left.data<float>()[i * 8 + 1];
    f.left.data<float>()[i * 8 + 5] = 0.f;
  }
  for (std::int64_t j = 0; j < 30; ++j) {  // and row 2 is twice row 7
    f.right.data<float>()[2 * 30 + j] = 2 * f.right.data<float>()[7 * 30 + j];
  }
  const Matrix before = product_of(f);
  balance(f);
  expect_balanced(f, before);
  Factors none = random_factors(6, 3, 4);
  std::fill_n(none.left.data<float>(), 18, 0.f);
  balance(none);
  for (std::int64_t i = 0; i < 12; ++i) {
    EXPECT_EQ(none.right.data<float>()[i], 0.f);
  }
}

TEST(BalanceFactors, WhatIsBalancedStays) {
  const Factors f = random_factors(40, 8, 30);
  balance(f);
  const Matrix left = wide(f.left), right = wide(f.right);
  balance(f);
  // Up to the sign of each direction.
  const Matrix left_now = wide(f.left), right_now = wide(f.right);
  for (std::size_t k = 0; k < 8; ++k) {
    double along = 0;
    for (std::size_t i = 0; i < 40; ++i) {
      along += left.at(i, k) * left_now.at(i, k);
    }
    for (std::size_t i = 0; i < 40; ++i) {
      EXPECT_NEAR(left_now.at(i, k), std::copysign(1.0, along) * left.at(i, k), 1e-4);
    }
    for (std::size_t j = 0; j < 30; ++j) {
      EXPECT_NEAR(right_now.at(k, j), std::copysign(1.0, along) * right.at(k, j), 1e-4);
    }
  }
}

TEST(BalanceFactors, BytesDoNotDependOnThreads) {
  const int before = thread_count();
  std::vector<std::vector<double>> all;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const Factors f = uneven_factors(300, 20, 190);
    balance(f);
    all.push_back(wide(f.left).values);
    const Matrix right = wide(f.right);
    all.back().insert(all.back().end(), right.values.begin(), right.values.end());
  }
  set_thread_count(before);
  EXPECT_EQ(all[0], all[1]);
  EXPECT_EQ(all[0], all[2]);
}

TEST(BalanceFactors, RefusesWhatIsNoNumber) {
  const Factors f = random_factors(9, 3, 7);
  f.right.data<float>()[4] = std::numeric_limits<float>::quiet_NaN();
  try {
    balance(f);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::numerics);
  }
}

}  // namespace
}  // namespace strata
