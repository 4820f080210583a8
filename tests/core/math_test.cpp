#include "core/math.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"

namespace strata {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

double ulp_of(long double exact) {
  const auto near = static_cast<float>(std::fabs(exact));
  return static_cast<double>(std::nextafter(near, kInf)) - static_cast<double>(near);
}

double ulps(float got, long double exact) {
  return std::fabs(static_cast<double>(static_cast<long double>(got) - exact)) / ulp_of(exact);
}

/// Evenly spaced points of [low, high], both ends included.
template <class Body>
void sweep(float low, float high, int points, Body body) {
  for (int i = 0; i <= points; ++i) {
    body(low + (high - low) * static_cast<float>(i) / static_cast<float>(points));
  }
}

TEST(Math, ExpIsWithinTwoUlp) {
  double worst = 0;
  sweep(-87.f, 88.f, 200003, [&](float x) { worst = std::max(worst, ulps(exp_(x), expl(x))); });
  sweep(-1e-3f, 1e-3f, 10007, [&](float x) { worst = std::max(worst, ulps(exp_(x), expl(x))); });
  EXPECT_LE(worst, 2.0);
}

TEST(Math, ExpSaturates) {
  EXPECT_EQ(exp_(0.f), 1.f);
  EXPECT_EQ(exp_(-87.4f), 0.f);
  EXPECT_EQ(exp_(-1e30f), 0.f);
  EXPECT_EQ(exp_(-kInf), 0.f);
  EXPECT_EQ(exp_(88.8f), kInf);
  EXPECT_EQ(exp_(kInf), kInf);
  EXPECT_TRUE(std::isfinite(exp_(88.6f)));
  EXPECT_TRUE(std::isnan(exp_(std::nanf(""))));
}

TEST(Math, ExpOfASoftmaxHasTheBitsOfExp) {
  sweep(-90.f, 1.f, 200003, [](float x) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(exp_softmax(x)), std::bit_cast<std::uint32_t>(exp_(x)))
        << x;
  });
  EXPECT_EQ(exp_softmax(-1e30f), 0.f);
  EXPECT_EQ(exp_softmax(-kInf), 0.f);
  EXPECT_TRUE(std::isnan(exp_softmax(std::nanf(""))));
  EXPECT_TRUE(std::isnan(exp_softmax(std::bit_cast<float>(0xffffffffu))));
}

TEST(Math, LogIsWithinTwoUlp) {
  double worst = 0, worst_near_one = 0;
  for (float scale : {1e-37f, 1e-20f, 0.5f, 1.02f, 2.f, 1e3f, 5e4f, 1e20f, 1e38f}) {
    sweep(scale, 2.f * scale, 20011, [&](float x) {
      const auto exact = logl(x);
      if (x < 0.99f || x > 1.01f) {
        worst = std::max(worst, ulps(log_(x), exact));
      }
    });
  }
  sweep(0.99f, 1.01f, 20011, [&](float x) {
    const auto error = std::fabs(static_cast<double>(static_cast<long double>(log_(x)) - logl(x)));
    worst_near_one = std::max(worst_near_one, error);
  });
  EXPECT_LE(worst, 2.0);
  EXPECT_LE(worst_near_one, 1e-7);
  EXPECT_EQ(log_(1.f), 0.f);
}

TEST(Math, TanhIsWithinItsAbsoluteError) {
  double worst = 0;
  const auto check = [&](float x) {
    const auto error = static_cast<long double>(tanh_(x)) - tanhl(x);
    worst = std::max(worst, std::fabs(static_cast<double>(error)));
  };
  sweep(-12.f, 12.f, 200003, check);
  sweep(-1e-2f, 1e-2f, 10007, check);
  EXPECT_LE(worst, 2e-7);
  EXPECT_EQ(tanh_(kInf), 1.f);
  EXPECT_EQ(tanh_(-kInf), -1.f);
  EXPECT_EQ(tanh_(-100.f), -1.f);
}

TEST(Math, BitsAgreeOverInstructionSets) {
  const auto before = cpu::isa_level();
  constexpr int kCount = 1009;
  std::vector<std::vector<float>> results;
  for (int level = 0; level <= static_cast<int>(before); ++level) {
    cpu::force_isa_level(static_cast<cpu::IsaLevel>(level));
    std::vector<float> y(3 * kCount);
    cpu::simd([&] {
      for (int i = 0; i < kCount; ++i) {
        const float x = static_cast<float>(i - kCount / 2) * 0.173f;
        y[static_cast<std::size_t>(i)] = exp_(x);
        y[static_cast<std::size_t>(kCount + i)] = tanh_(x);
        y[static_cast<std::size_t>(2 * kCount + i)] = log_(static_cast<float>(i + 1) * 0.37f);
      }
    });
    results.push_back(y);
  }
  cpu::force_isa_level(before);
  for (const auto& y : results) {
    EXPECT_EQ(std::memcmp(y.data(), results[0].data(), y.size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace strata
