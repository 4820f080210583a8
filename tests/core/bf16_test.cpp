#include "core/bf16.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace strata {
namespace {

float rounded(float x) {
  return to_float(to_bf16(x));
}

TEST(Bf16, TiesGoToTheEvenNeighbour) {
  EXPECT_EQ(rounded(1.f + 0x1p-8f), 1.f);                // between 1 and 1 + 2^-7
  EXPECT_EQ(rounded(1.f + 3 * 0x1p-8f), 1.f + 0x1p-6f);  // between 1 + 2^-7 and 1 + 2^-6
  EXPECT_EQ(rounded(1.f + 0x1p-8f + 0x1p-20f), 1.f + 0x1p-7f);
  EXPECT_EQ(rounded(-1.f - 0x1p-8f), -1.f);
}

TEST(Bf16, EveryValueComesBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 x{static_cast<std::uint16_t>(bits)};
    if (!std::isnan(to_float(x))) {
      ASSERT_EQ(to_bf16(to_float(x)).bits, x.bits);
    }
  }
}

TEST(Bf16, RoundsEveryFloatToTheNearest) {
  for (std::uint64_t u = 0; u < 0x7f800000; u += 9973) {  // a prime: all kinds of lower halves
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(u));
    const bf16 down{static_cast<std::uint16_t>(u >> 16)};
    const bf16 up{static_cast<std::uint16_t>(down.bits + 1)};
    const double below = static_cast<double>(x) - to_float(down);
    // The value above the largest bf16 is where infinity begins.
    const double next = std::isinf(to_float(up)) ? 0x1p128 : to_float(up);
    const double above = next - static_cast<double>(x);
    const bool goes_up = above < below || (above == below && (up.bits & 1) == 0);
    ASSERT_EQ(to_bf16(x).bits, goes_up ? up.bits : down.bits) << u;
  }
}

TEST(Bf16, KeepsWhatIsNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(rounded(kInf), kInf);
  EXPECT_EQ(rounded(-kInf), -kInf);
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()), kInf);
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  // Only low bits set: truncation would make it infinity.
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7fffffffu))));
}

TEST(Bf16, KeepsDenormalsAndSignedZero) {
  EXPECT_EQ(to_bf16(-0.f).bits, 0x8000);
  EXPECT_EQ(rounded(std::bit_cast<float>(0x00010000u)), std::bit_cast<float>(0x00010000u));
  EXPECT_EQ(rounded(std::numeric_limits<float>::denorm_min()), 0.f);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x007fffffu)).bits, 0x0080);
}

}  // namespace
}  // namespace strata
