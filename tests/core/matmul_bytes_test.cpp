// Gates DESIGN 5.4: the bits of a product depend on neither threads nor row cuts. Run it for each
// new version of the library and each new kind of machine.
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/matmul.h"
#include "core/parallel_for.h"
#include "tests/support/matmul_shapes.h"
#include "tests/support/run_self.h"

namespace strata {
namespace {

using tests::step_products;

class KeepsThreadCount {
 public:
  KeepsThreadCount() : count_(thread_count()) {}
  ~KeepsThreadCount() { set_thread_count(count_); }

 private:
  int count_;
};

Tensor bias_of(const MatmulShape& s) {
  return s.bias ? tests::random_values(s.in, s.n, 4) : Tensor();
}

Tensor multiply(const Tensor& A, const Tensor& B, const MatmulShape& s, Accumulate mode) {
  Tensor C = tests::random_values(s.out, s.m * s.n, 3);
  std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
  matmul(C, A, B, s, mode, scratch, compute_stream(), bias_of(s));
  return C;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.bytes(), b.bytes(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

/// The same product, cut in rows of A.
Tensor multiply_in_rows(const Tensor& A, const Tensor& B, MatmulShape s, std::int64_t cut) {
  Tensor C = tests::random_values(s.out, s.m * s.n, 3);
  const Tensor a = A.reshape({s.m, s.k}), c = C.reshape({s.m, s.n});
  for (std::int64_t row = 0; row < a.shape()[0]; row += cut) {
    s.m = std::min(cut, a.shape()[0] - row);
    std::vector<std::byte> scratch(static_cast<std::size_t>(matmul_scratch_bytes(s)));
    matmul(c.rows(row, row + s.m),
           a.rows(row, row + s.m),
           B,
           s,
           Accumulate::overwrite,
           scratch,
           compute_stream(),
           bias_of(s));
  }
  return C;
}

void check_threads(const std::vector<tests::StepProduct>& products,
                   const std::vector<int>& threads,
                   Accumulate mode = Accumulate::overwrite) {
  const KeepsThreadCount keeps;
  for (const tests::StepProduct& product : products) {
    for (const tests::ProductTypes types : tests::kProductTypes) {
      MatmulShape s = product.shape;
      s.in = types.in;
      s.out = types.out;
      const Tensor A = tests::random_values(s.in, s.m * s.k, 1);
      const Tensor B = tests::random_values(s.in, s.k * s.n, 2);
      set_thread_count(1);
      const Tensor one = multiply(A, B, s, mode);
      for (const int count : threads) {
        set_thread_count(count);
        EXPECT_TRUE(same_bytes(one, multiply(A, B, s, mode)))
            << product.name << " m " << s.m << " n " << s.n << " k " << s.k << " "
            << to_string(s.in) << " to " << to_string(s.out) << " on " << count << " threads";
      }
    }
  }
}

TEST(MatmulBytes, AreTheSameForEveryThreadCount) {
  check_threads(step_products(64, 64), {2, 3, 8, 16});
}

// A micro-batch of 2048 tokens is the inner dimension of weight gradients.
TEST(MatmulBytes, OfLongSumsOverTokensAreTheSameForEveryThreadCount) {
  std::vector<tests::StepProduct> products;
  for (const auto& [m, n] :
       {std::pair<std::int64_t, std::int64_t>{128, 512}, {768, 96}, {33, 65}}) {
    products.push_back({"dW", {.m = m, .n = n, .k = 2048, .form = MatmulForm::ab}});
    products.push_back({"dW", {.m = m, .n = n, .k = 2048, .form = MatmulForm::atb}});
  }
  check_threads(products, {2, 3, 8, 16}, Accumulate::overwrite);
  check_threads(products, {2, 3, 8, 16}, Accumulate::add);
}

TEST(MatmulBytes, AreTheSameForRowsCutAtMultiplesOf256) {
  const KeepsThreadCount keeps;
  set_thread_count(2);
  for (const std::int64_t k : {64, 1600, 3072}) {
    for (const MatmulForm form : {MatmulForm::ab, MatmulForm::abt}) {
      for (const tests::ProductTypes types : tests::kProductTypes) {
        const MatmulShape s{
            .m = 700, .n = 72, .k = k, .form = form, .in = types.in, .out = types.out};
        const Tensor A = tests::random_values(s.in, s.m * s.k, 1);
        const Tensor B = tests::random_values(s.in, s.k * s.n, 2);
        const Tensor whole = multiply(A, B, s, Accumulate::overwrite);
        for (const std::int64_t cut : {kMatmulRowCut, 2 * kMatmulRowCut}) {
          EXPECT_TRUE(same_bytes(whole, multiply_in_rows(A, B, s, cut)))
              << "k " << k << " cut " << cut << " " << to_string(s.in);
        }
      }
    }
  }
}

// What other machines would run, as far as this one can: the library's kernels for f32 and without
// AVX-512, and without its bf16 products.
TEST(MatmulBytes, AndValuesHoldOnLesserInstructionSets) {
  for (const auto& [library, ours] :
       {std::pair{"AVX2", "avx2"}, {"AVX512_CORE_BF16", "avx2"}, {"AVX512_CORE", "avx512"}}) {
    EXPECT_EQ(
        tests::run_self("MatmulBytes.OfLongSums*:MatmulBytes.*Rows*:Matmul.AgreesWithFloat64OnOdd*",
                        {{"ONEDNN_MAX_CPU_ISA", library}, {"STRATA_ISA", ours}}),
        0)
        << library;
  }
}

TEST(MatmulBytesSlow, AreTheSameAtFullWidth) {
  check_threads(step_products(64, std::int64_t{1} << 30), {2, 16});
}

TEST(MatmulBytesSlow, AreTheSameForLongMicroBatches) {
  check_threads(step_products(1024, 256), {2, 3, 16});
}

}  // namespace
}  // namespace strata
