#include "core/normal.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

constexpr RandomKey kKey{.seed = 9, .use = RandomUse::subspace, .a = 1, .b = 2};

std::vector<float> normals(std::int64_t first, std::size_t count, double mean, double deviation) {
  std::vector<float> to(count);
  fill_normal(to, kKey, first, mean, deviation);
  return to;
}

TEST(FillNormal, FollowsBoxAndMuller) {
  const std::vector<float> z = normals(0, 1 << 18, 0.0, 1.0);
  for (std::size_t i = 0; i < z.size(); i += 2) {
    const auto words = kKey.words(i / 4);
    const double u = (words[i % 4] + 1.0) / 4294967296.0;
    const double angle = 6.283185307179586477 * words[i % 4 + 1] / 4294967296.0;
    const double radius = std::sqrt(-2.0 * std::log(u));
    EXPECT_FLOAT_EQ(z[i], static_cast<float>(radius * std::cos(angle)));
    EXPECT_FLOAT_EQ(z[i + 1], static_cast<float>(radius * std::sin(angle)));
  }
}

TEST(FillNormal, HasTheMomentsOfANormalDistribution) {
  constexpr std::size_t kCount = 1 << 18;
  double mean = 0.0, square = 0.0;
  for (const float x : normals(1000, kCount, 0.5, 2.0)) {
    const double z = (static_cast<double>(x) - 0.5) / 2.0;
    mean += z / kCount;
    square += z * z / kCount;
  }
  EXPECT_NEAR(mean, 0.0, 5.0 / 512.0);
  EXPECT_NEAR(square, 1.0, 5.0 * std::sqrt(2.0) / 512.0);
}

TEST(FillNormal, BitsDoNotDependOnInstructions) {
  const cpu::IsaLevel best = cpu::isa_level();
  const std::vector<float> here = normals(3, 5000, 0.0, 1.0);
  for (const cpu::IsaLevel level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2}) {
    cpu::force_isa_level(std::min(level, best));
    EXPECT_EQ(here, normals(3, 5000, 0.0, 1.0)) << cpu::to_string(level);
  }
  cpu::force_isa_level(best);
}

TEST(FillNormal, AnElementIsTheSameInEveryPiece) {
  const int before = thread_count();
  set_thread_count(1);
  const std::vector<float> whole = normals(0, 20000, 0.0, 1.0);
  set_thread_count(3);
  EXPECT_EQ(whole, normals(0, 20000, 0.0, 1.0));
  for (const std::int64_t first : {1, 2, 3, 4, 63, 64, 65, 5001}) {
    for (const std::size_t count : {1, 5, 64, 200, 10000}) {
      const std::vector<float> piece = normals(first, count, 0.0, 1.0);
      EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + first)) << first;
    }
  }
  set_thread_count(before);
}

TEST(FillUniform, IsAWordOfTheKeyStretchedOverTheRange) {
  std::vector<float> whole(20000), piece(777);
  fill_uniform(whole, kKey, 0, 0.5, 2.0);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const double u = (kKey.words(i / 4)[i % 4] + 0.5) / 4294967296.0;
    ASSERT_EQ(whole[i], static_cast<float>(0.5 + 2.0 * (2.0 * u - 1.0))) << i;
  }
  fill_uniform(piece, kKey, 4099, 0.5, 2.0);
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + 4099));
}

}  // namespace
}  // namespace strata
