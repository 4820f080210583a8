#include "core/philox.h"

#include <array>
#include <set>

#include <gtest/gtest.h>

namespace strata {
namespace {

using Words = std::array<std::uint32_t, 4>;

// kat_vectors of Random123.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t f = 0xffffffff;
  EXPECT_EQ(philox({f, f, f, f}, {f, f}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomKey, EveryPartOfTheAddressCounts) {
  constexpr std::uint64_t kHigh = std::uint64_t{1} << 32;
  const RandomKey base{.seed = 1, .use = RandomUse::init, .a = 2, .b = 3};
  std::set<Words> seen{base.words(4)};
  const auto is_new = [&](RandomKey key, std::uint64_t c) {
    return seen.insert(key.words(c)).second;
  };
  EXPECT_FALSE(is_new(base, 4));
  EXPECT_TRUE(is_new({2, base.use, base.a, base.b}, 4));
  EXPECT_TRUE(is_new({1 + kHigh, base.use, base.a, base.b}, 4));
  EXPECT_TRUE(is_new({1, RandomUse::dropout, base.a, base.b}, 4));
  EXPECT_TRUE(is_new({1, base.use, 3, 2}, 4));
  EXPECT_TRUE(is_new({1, base.use, 2 + kHigh, base.b}, 4));
  EXPECT_TRUE(is_new({1, base.use, base.a, 3 + kHigh}, 4));
  EXPECT_TRUE(is_new(base, 5));
  EXPECT_TRUE(is_new(base, 4 + kHigh));
}

TEST(Uniform, StaysBelowOne) {
  EXPECT_EQ(uniform(0), 0.f);
  EXPECT_LT(uniform(0xffffffff), 1.f);
  EXPECT_EQ(uniform(0x80000000), .5f);
}

}  // namespace
}  // namespace strata
