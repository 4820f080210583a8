#include "core/cpu/panel_product.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/panel_avx512.h"
#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "tests/support/matmul_shapes.h"

namespace strata::cpu {
namespace {

class PanelProduct : public ::testing::Test {
 protected:
  void SetUp() override {
    if (isa_level() != IsaLevel::avx512) {
      GTEST_SKIP() << "needs AVX-512";
    }
  }
  ~PanelProduct() override { set_thread_count(threads_); }

 private:
  int threads_ = thread_count();
};

using Floats = std::vector<float>;

Floats random_floats(std::int64_t numel, std::uint64_t seed) {
  const Tensor t = tests::random_values(DType::f32, numel, seed);
  return {t.data<float>(), t.data<float>() + numel};
}

struct Operands {
  Floats A, B, C, bias;

  explicit Operands(const MatmulShape& s)
      : A(random_floats(s.batch * s.m * s.k, 1)),
        B(random_floats(s.batch * s.k * s.n, 2)),
        C(random_floats(s.batch * s.m * s.n, 3)),
        bias(random_floats(s.n, 4)) {}
};

std::byte* bytes(Floats& values, std::int64_t at = 0) {
  return reinterpret_cast<std::byte*>(values.data() + at);
}

/// What a scratch holds before must not be seen in the result.
void run(const MatmulShape& s, const ProductOperands& operands, Accumulate mode) {
  const std::int64_t scratch_bytes = panel_product_scratch_bytes(s);
  Floats scratch(static_cast<std::size_t>(scratch_bytes) / sizeof(float) + 1,
                 std::numeric_limits<float>::quiet_NaN());
  panel_product(operands, s, mode, {bytes(scratch), static_cast<std::size_t>(scratch_bytes)});
}

Floats product_of(const MatmulShape& s, Operands& o, Accumulate mode = Accumulate::overwrite) {
  Floats C = o.C;
  run(s, {bytes(C), bytes(o.A), bytes(o.B), s.bias ? bytes(o.bias) : nullptr}, mode);
  return C;
}

Floats transposed(const Floats& from, std::int64_t rows, std::int64_t columns) {
  Floats to(from.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      to[static_cast<std::size_t>(j * rows + i)] = from[static_cast<std::size_t>(i * columns + j)];
    }
  }
  return to;
}

constexpr MatmulForm kForms[] = {MatmulForm::ab, MatmulForm::abt, MatmulForm::atb};

// Sizes on both sides of a block of registers, a chunk, a block of k and a group of columns.
TEST_F(PanelProduct, AgreesWithFloat64AroundItsBlocks) {
  struct Size {
    std::int64_t m, n, k, batch;
  };
  for (const Size size : {Size{1, 1, 1, 1},
                          Size{2, 33, 15, 2},
                          Size{14, 32, 384, 1},
                          Size{15, 31, 385, 1},
                          Size{16, 64, 16, 3},
                          Size{17, 40, 17, 1},
                          Size{29, 545, 400, 1},
                          Size{44, 96, 769, 1}}) {
    for (const MatmulForm form : kForms) {
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        const MatmulShape s{.m = size.m,
                            .n = size.n,
                            .k = size.k,
                            .batch = size.batch,
                            .form = form,
                            .bias = mode == Accumulate::overwrite};
        Operands o(s);
        const Floats C = product_of(s, o, mode);
        for (std::int64_t at = 0; at < s.batch * s.m * s.n; ++at) {
          const std::int64_t p = at / (s.m * s.n), i = at / s.n % s.m, j = at % s.n;
          double sum = mode == Accumulate::add ? o.C[static_cast<std::size_t>(at)]
                                               : o.bias[static_cast<std::size_t>(j)];
          for (std::int64_t q = 0; q < s.k; ++q) {
            const std::int64_t a = form == MatmulForm::atb ? q * s.m + i : i * s.k + q;
            const std::int64_t b = form == MatmulForm::abt ? j * s.k + q : q * s.n + j;
            sum += static_cast<double>(o.A[static_cast<std::size_t>(p * s.m * s.k + a)]) *
                   static_cast<double>(o.B[static_cast<std::size_t>(p * s.k * s.n + b)]);
          }
          ASSERT_NEAR(C[static_cast<std::size_t>(at)],
                      sum,
                      0x1p-23 * (static_cast<double>(s.k) + std::abs(sum) + 1))
              << "m " << s.m << " n " << s.n << " k " << s.k << " form " << static_cast<int>(form)
              << " at " << p << " " << i << " " << j;
        }
      }
    }
  }
}

TEST_F(PanelProduct, SumsInOneOrderInEveryForm) {
  const MatmulShape ab{.m = 47, .n = 70, .k = 800};
  Operands o(ab), abt(ab), atb(ab);
  abt.B = transposed(o.B, ab.k, ab.n);
  atb.A = transposed(o.A, ab.m, ab.k);
  MatmulShape other = ab;
  const Floats expected = product_of(ab, o);
  other.form = MatmulForm::abt;
  EXPECT_EQ(product_of(other, abt), expected);
  other.form = MatmulForm::atb;
  EXPECT_EQ(product_of(other, atb), expected);
}

TEST_F(PanelProduct, HasTheSameBitsOnEveryThreadCount) {
  for (const MatmulForm form : kForms) {
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{301, 77}, {45, 700}}) {
      const MatmulShape s{.m = m, .n = n, .k = 500, .form = form, .bias = true};
      Operands o(s);
      set_thread_count(1);
      const Floats one = product_of(s, o, Accumulate::add);
      for (const int threads : {2, 3, 7, 16}) {
        set_thread_count(threads);
        EXPECT_EQ(product_of(s, o, Accumulate::add), one) << threads << " threads";
      }
    }
  }
}

TEST_F(PanelProduct, HasTheSameBitsForRowsCutAnywhere) {
  const MatmulShape s{.m = 300, .n = 50, .k = 390, .form = MatmulForm::abt};
  Operands o(s);
  const Floats whole = product_of(s, o);
  for (const std::int64_t cut : {std::int64_t{1}, std::int64_t{9}, kMatmulRowCut}) {
    Floats C = o.C;
    for (std::int64_t row = 0; row < s.m; row += cut) {
      MatmulShape part = s;
      part.m = std::min(cut, s.m - row);
      run(part,
          {bytes(C, row * s.n), bytes(o.A, row * s.k), bytes(o.B), nullptr},
          Accumulate::overwrite);
    }
    EXPECT_EQ(C, whole) << "cut " << cut;
  }
}

using Doubles = std::vector<double>;

/// Of row i of x (rows, columns): element k in lane k % 8, lanes in pairs.
Doubles squares_of_rows(const Floats& x, std::int64_t rows, std::int64_t columns) {
  Doubles sums;
  for (std::int64_t i = 0; i < rows; ++i) {
    double lanes[8] = {};
    for (std::int64_t k = 0; k < columns; ++k) {
      const double value = x[static_cast<std::size_t>(i * columns + k)];
      lanes[k % 8] += value * value;
    }
    sums.push_back(((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                   ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])));
  }
  return sums;
}

Doubles squares_of_columns(const Floats& x, std::int64_t rows, std::int64_t columns) {
  Doubles sums(static_cast<std::size_t>(columns), 0.0);
  for (std::int64_t at = 0; at < rows * columns; ++at) {
    const double value = x[static_cast<std::size_t>(at)];
    sums[static_cast<std::size_t>(at % columns)] += value * value;
  }
  return sums;
}

// In the last three sizes B does not stay packed.
TEST_F(PanelProduct, SumsSquaresInTheOrderOfK) {
  for (const auto& [m, n, k] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1},
                                {14, 32, 384},
                                {16, 33, 385},
                                {29, 40, 17},
                                {301, 32, 800},
                                {45, 700, 130},
                                {45, 1000, 400},
                                {33, 40, 3500}}) {
    for (const MatmulForm form : kForms) {
      const MatmulShape s{.m = m, .n = n, .k = k, .form = form};
      Operands o(s);
      const Floats C = product_of(s, o);
      for (const int threads : {1, 2, 3, 7}) {
        SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k << " form "
                                        << static_cast<int>(form) << " threads " << threads);
        set_thread_count(threads);
        constexpr double kGuard = -1.0;
        Doubles rows(static_cast<std::size_t>(m) + 1, kGuard);
        Doubles columns(static_cast<std::size_t>(n) + 1, kGuard);
        Floats beside = o.C;
        run(s,
            {bytes(beside),
             bytes(o.A),
             bytes(o.B),
             nullptr,
             {form == MatmulForm::atb ? nullptr : rows.data(),
              form == MatmulForm::abt ? nullptr : columns.data()}},
            Accumulate::overwrite);
        EXPECT_EQ(beside, C);
        EXPECT_EQ(rows.back(), kGuard);
        EXPECT_EQ(columns.back(), kGuard);
        rows.pop_back();
        columns.pop_back();
        if (form != MatmulForm::atb) {
          EXPECT_EQ(rows, squares_of_rows(o.A, m, k));
        }
        if (form != MatmulForm::abt) {
          EXPECT_EQ(columns, squares_of_columns(o.B, k, n));
        }
      }
    }
  }
}

TEST_F(PanelProduct, WritesNothingBesideC) {
  for (const MatmulForm form : kForms) {
    const MatmulShape s{.m = 19, .n = 37, .k = 20, .form = form};
    Operands o(s);
    constexpr std::int64_t kGuard = 64;
    Floats C(static_cast<std::size_t>(s.m * s.n + 2 * kGuard), 7.f);
    run(s, {bytes(C, kGuard), bytes(o.A), bytes(o.B), nullptr}, Accumulate::overwrite);
    for (std::size_t i = 0; i < static_cast<std::size_t>(kGuard); ++i) {
      ASSERT_EQ(C[i], 7.f);
      ASSERT_EQ(C[C.size() - 1 - i], 7.f);
    }
  }
}

}  // namespace
}  // namespace strata::cpu
