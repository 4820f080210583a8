#include "core/cpu/tile.h"

#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/cpu/tile_avx512.h"

namespace strata::cpu {
namespace {

std::vector<float> random_floats(std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<float> uniform(-1.f, 1.f);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) {
    v = to_float(to_bf16(uniform(engine)));
  }
  return x;
}

struct Extents {
  std::int64_t M, N, K;
};

// Every width of a register block, alone and one after another; the last is 16 rows of 48 columns.
constexpr Extents kExtents[] = {
    {24, 16, 7}, {48, 32, 5}, {24, 48, 9}, {48, 64, 3}, {24, 80, 6}, {24, 112, 2}, {16, 48, 11}};

class Level {
 public:
  Level() : before_(isa_level()) {}
  ~Level() { force_isa_level(before_); }

 private:
  IsaLevel before_;
};

/// C += A B in order of k, one fma each.
std::vector<float> chain(const std::vector<float>& A,
                         const std::vector<float>& B,
                         std::vector<float> C,
                         const Extents& x) {
  for (std::int64_t m = 0; m < x.M; ++m) {
    for (std::int64_t n = 0; n < x.N; ++n) {
      float& c = C[static_cast<std::size_t>(m * x.N + n)];
      for (std::int64_t k = 0; k < x.K; ++k) {
        c = std::fma(
            A[static_cast<std::size_t>(m * x.K + k)], B[static_cast<std::size_t>(k * x.N + n)], c);
      }
    }
  }
  return C;
}

TEST(Tile, IsOneChainOfFmaOnEveryLevel) {
  const Level restored;
  const int best = static_cast<int>(isa_level());
  for (const Extents& x : kExtents) {
    const auto A = random_floats(x.M * x.K, 1), B = random_floats(x.K * x.N, 2);
    const auto before = random_floats(x.M * x.N, 3);
    std::vector<float> turned(A.size());
    for (std::int64_t i = 0; i < x.M * x.K; ++i) {
      turned[static_cast<std::size_t>(i % x.K * x.M + i / x.K)] = A[static_cast<std::size_t>(i)];
    }
    for (int level = 0; level <= best; ++level) {
      force_isa_level(static_cast<IsaLevel>(level));
      std::vector<float> C = before;
      tile_product(
          C.data(), x.N, TileView<float>{A.data(), x.K, 1}, B.data(), x.N, x.M, x.N, x.K, true);
      EXPECT_EQ(C, chain(A, B, before, x)) << to_string(isa_level()) << ", N " << x.N;
      tile_product(C.data(),
                   x.N,
                   TileView<float>{turned.data(), 1, x.M},
                   B.data(),
                   x.N,
                   x.M,
                   x.N,
                   x.K,
                   false);
      EXPECT_EQ(C, chain(A, B, std::vector<float>(C.size()), x))
          << to_string(isa_level()) << ", turned, N " << x.N;
    }
  }
}

TEST(Tile, MultipliesPairsAsTheirTwoElements) {
  if (!has_bf16_dot()) {
    GTEST_SKIP() << "no AVX512-BF16 here";
  }
  for (const Extents& x : kExtents) {
    const std::int64_t K = 2 * x.K;
    const auto A = random_floats(x.M * K, 1), B = random_floats(K * x.N, 2);
    const auto before = random_floats(x.M * x.N, 3);
    std::vector<bf16x2> a, b;
    for (std::int64_t i = 0; i < x.M * x.K; ++i) {
      const auto at = static_cast<std::size_t>(2 * i);
      a.push_back({{to_bf16(A[at]), to_bf16(A[at + 1])}});
    }
    b.resize(static_cast<std::size_t>(x.K * x.N));
    pair_rows(b.data(), B.data(), x.N, K, x.N);
    std::vector<float> C = before;
    tile_product(
        C.data(), x.N, TileView<bf16x2>{a.data(), x.K, 1}, b.data(), x.N, x.M, x.N, x.K, true);
    const auto want = chain(A, B, before, {x.M, x.N, K});
    for (std::size_t i = 0; i < C.size(); ++i) {
      ASSERT_NEAR(C[i], want[i], 1e-5) << i << ", N " << x.N;
    }
  }
}

TEST(Tile, PairsNeighboursAndRounds) {
  if (!has_bf16_dot()) {
    GTEST_SKIP() << "no AVX512-BF16 here";
  }
  constexpr std::int64_t kRows = 4, kColumns = 48, kStride = 50;
  std::vector<float> x(kRows * kStride);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = 1.f + static_cast<float>(i) * 0.00137f;
  }
  std::vector<bf16x2> along(kRows * kColumns / 2), across(kRows * kColumns / 2);
  pair_columns(along.data(), x.data(), kStride, kRows, kColumns);
  pair_rows(across.data(), x.data(), kStride, kRows, kColumns);
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t c = 0; c < kColumns; ++c) {
      const std::uint16_t want = to_bf16(x[r * kStride + c]).bits;
      EXPECT_EQ(along[(r * kColumns + c) / 2].at[c % 2].bits, want);
      EXPECT_EQ(across[r / 2 * kColumns + c].at[r % 2].bits, want);
    }
  }
}

TEST(Tile, LoweringTheLevelTakesTheDotAway) {
  const Level restored;
  force_isa_level(IsaLevel::base);
  EXPECT_FALSE(has_bf16_dot());
}

}  // namespace
}  // namespace strata::cpu
