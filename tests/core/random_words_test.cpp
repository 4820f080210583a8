#include "core/random_words.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"

namespace strata {
namespace {

TEST(FillWords, GivesTheWordsOfTheKeyOnEveryLevel) {
  const RandomKey key{
      .seed = (std::uint64_t{7} << 40) + 1, .use = RandomUse::rounding, .a = 2, .b = 3};
  const cpu::IsaLevel best = cpu::isa_level();
  for (const cpu::IsaLevel level :
       {cpu::IsaLevel::base, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
    cpu::force_isa_level(std::min(level, best));
    for (const std::uint64_t first : {0ull, 5ull, 0xfffffff8ull}) {
      for (const std::int64_t draws : {1, 15, 16, 17, 40}) {
        std::vector<std::uint32_t> to(static_cast<std::size_t>(4 * draws + 1), 77u);
        fill_words(to.data(), key, first, draws);
        for (std::size_t i = 0; i < static_cast<std::size_t>(4 * draws); ++i) {
          ASSERT_EQ(to[i], key.words(first + i / 4)[i % 4]) << i;
        }
        EXPECT_EQ(to.back(), 77u);
      }
    }
  }
  cpu::force_isa_level(best);
}

}  // namespace
}  // namespace strata
