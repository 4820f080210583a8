#include "core/compress/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "tests/support/errors.h"

namespace strata {
namespace {

constexpr RandomKey kKey{.seed = 6, .use = RandomUse::rounding, .a = 3, .b = 1};

std::vector<float> values(std::size_t n, std::uint64_t seed = 1) {
  const RandomKey key{.seed = seed, .use = RandomUse::sampling};
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) {
    v[i] = uniform(key.words(i)[0]) * 3.f - 1.f;
  }
  return v;
}

struct Encoded {
  std::vector<std::uint8_t> codes;
  std::vector<bf16> ranges;
};
Encoded encode(const std::vector<float>& v, const ErrorFeedback& settings, std::int64_t first = 0) {
  const auto n = static_cast<std::int64_t>(v.size());
  Encoded e;
  e.codes.resize(static_cast<std::size_t>(ErrorFeedback::code_bytes(n)), 0xee);
  e.ranges.resize(static_cast<std::size_t>(settings.range_numel(n)));
  encode_error(e.codes, e.ranges, v, settings, kKey, first, compute_stream());
  return e;
}
std::vector<float> decode(const Encoded& e, std::size_t n, const ErrorFeedback& settings) {
  std::vector<float> to(n), zero(n);
  add_error(to, zero, e.codes, e.ranges, settings, compute_stream());
  return to;
}

TEST(ErrorFeedback, PacksTheEvenElementHigh) {
  // Range 0..15, so that codes are the values.
  const std::vector<float> v{0, 15, 7, 8, 1, 2, 3};
  const Encoded e = encode(v, {.block = 8});
  EXPECT_EQ(e.codes, (std::vector<std::uint8_t>{0x0f, 0x78, 0x12, 0x30}));
  EXPECT_EQ(to_float(e.ranges[0]), 0.f);
  EXPECT_EQ(to_float(e.ranges[1]), 15.f);
  EXPECT_EQ(decode(e, v.size(), {.block = 8}), v);
}

TEST(ErrorFeedback, RoundsToTheNearestLevelHalvesUp) {
  const std::vector<float> v{0.f, 15.f, .5f, .49f, 7.5f, 14.51f, 1.f, 2.49f};
  EXPECT_EQ(encode(v, {.block = 8}).codes, (std::vector<std::uint8_t>{0x0f, 0x10, 0x8f, 0x12}));
}

TEST(ErrorFeedback, StaysWithinHalfAStepAndWithinItsNibble) {
  for (const std::int64_t block : {2, 6, 64, 66, 1000}) {
    for (const std::size_t n : {1u, 2u, 63u, 64u, 65u, 130u, 4099u}) {
      const ErrorFeedback settings{.block = block};
      const std::vector<float> v = values(n);
      const Encoded e = encode(v, settings);
      const std::vector<float> back = decode(e, n, settings);
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t b = i / static_cast<std::size_t>(block);
        const float low = to_float(e.ranges[2 * b]), high = to_float(e.ranges[2 * b + 1]);
        ASSERT_LE(low, v[i]);
        ASSERT_GE(high, v[i]);
        ASSERT_LE(std::abs(back[i] - v[i]), (high - low) / 30.f * 1.00001f + 2e-7f) << i;
      }
      if (n % 2 != 0) {
        EXPECT_EQ(e.codes.back() & 15u, 0u);
      }
    }
  }
}

TEST(ErrorFeedback, RangesAreTheNearestBf16Outside) {
  const ErrorFeedback settings{.block = 2};
  const auto range = [&](float low, float high) {
    const Encoded e = encode({high, low}, settings);
    return std::pair(e.ranges[0].bits, e.ranges[1].bits);
  };
  const auto bits = [](float x) { return to_bf16(x).bits; };
  EXPECT_EQ(range(1.f, 2.f), std::pair(bits(1.f), bits(2.f)));
  EXPECT_EQ(range(1.001f, 2.001f), std::pair(bits(1.f), bits(2.015625f)));
  EXPECT_EQ(range(-2.001f, -1.001f), std::pair(bits(-2.015625f), bits(-1.f)));
  EXPECT_EQ(range(-0.f, 0.f), (std::pair<std::uint16_t, std::uint16_t>(0, 0)));
  constexpr float kMax = std::numeric_limits<float>::max();
  EXPECT_EQ(range(0.f, kMax).second, 0x7f7f);  // not infinity
  EXPECT_EQ(range(-kMax, 0.f).first, 0xff7f);
}

TEST(ErrorFeedback, BlocksOfOneValueComeBack) {
  for (const float x : {0.f, -0.f, 1.f, -.375f}) {
    for (const ErrorRounding rounding : {ErrorRounding::nearest, ErrorRounding::stochastic}) {
      const ErrorFeedback settings{.block = 64, .rounding = rounding};
      const Encoded e = encode(std::vector<float>(100, x), settings);
      EXPECT_EQ(e.codes, std::vector<std::uint8_t>(50, 0));
      EXPECT_EQ(decode(e, 100, settings), std::vector<float>(100, x));
    }
  }
  const std::vector<std::uint8_t> codes(4);
  const std::vector<bf16> ranges(2);
  std::vector<float> g{1.f, -0.f, 3e-45f, 0.f, -1e30f, 5.f, 6.f};
  const std::vector<float> before = g;
  add_error(g, g, codes, ranges, {.block = 8}, compute_stream());  // fresh state, in place
  EXPECT_EQ(g, before);
}

TEST(ErrorFeedback, SurvivesTinyRanges) {
  const ErrorFeedback settings{.block = 4};
  for (const float size : {1e-45f, 1e-41f, 1e-38f}) {
    const std::vector<float> v{0.f, size, -size, 3.f * size};
    const std::vector<float> back = decode(encode(v, settings), 4, settings);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_LE(std::abs(back[i] - v[i]), 6.f * size + 1e-40f);
    }
  }
}

TEST(ErrorFeedback, AddsToTheGradient) {
  const ErrorFeedback settings{.block = 6};
  const std::vector<float> error = values(101), g = values(101, 2);
  const Encoded e = encode(error, settings);
  const std::vector<float> back = decode(e, 101, settings);
  std::vector<float> sum(101);
  add_error(sum, g, e.codes, e.ranges, settings, compute_stream());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    EXPECT_EQ(sum[i], g[i] + back[i]);
  }
}

TEST(ErrorFeedback, StochasticRoundingIsRightOnAverage) {
  const ErrorFeedback settings{.block = 64, .rounding = ErrorRounding::stochastic};
  std::vector<float> v(64 * 4096, 4.3f);
  for (std::size_t i = 0; i < v.size(); i += 64) {
    v[i] = 0.f;
    v[i + 1] = 15.f;
  }
  const std::vector<float> back = decode(encode(v, settings), v.size(), settings);
  double sum = 0.0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    if (i % 64 > 1) {
      ASSERT_TRUE(back[i] == 4.f || back[i] == 5.f) << back[i];
      sum += static_cast<double>(back[i]);
    }
  }
  const double count = 62.0 * 4096.0;
  EXPECT_NEAR(sum / count, 4.3, 5.0 * std::sqrt(.21 / count));
  for (std::size_t i = 0; i < v.size(); i += 64) {
    ASSERT_EQ(back[i], 0.f);
    ASSERT_EQ(back[i + 1], 15.f);
  }
}

TEST(ErrorFeedback, DrawsBelongToElementsOfTheWholeArray) {
  const ErrorFeedback settings{.block = 6, .rounding = ErrorRounding::stochastic};
  const std::vector<float> v = values(600);
  const Encoded whole = encode(v, settings, 10);
  for (const std::ptrdiff_t cut : {6, 120, 402}) {
    const Encoded tail = encode({v.begin() + cut, v.end()}, settings, 10 + cut);
    EXPECT_TRUE(std::equal(tail.codes.begin(), tail.codes.end(), whole.codes.begin() + cut / 2));
  }
  EXPECT_NE(whole.codes, encode(v, settings, 11).codes);
  // Code of element i: its level and the i-th uniform number of the key.
  for (std::size_t i = 0; i < v.size(); ++i) {
    const FourBitRange range =
        FourBitRange::of(whole.ranges[i / 6 * 2], whole.ranges[i / 6 * 2 + 1]);
    const float w = uniform(kKey.words((10 + i) / 4)[(10 + i) % 4]);
    const auto want = static_cast<unsigned>(std::floor((v[i] - range.min) / range.step + w));
    ASSERT_EQ(static_cast<unsigned>(whole.codes[i / 2]) >> (i % 2 == 0 ? 4 : 0) & 15u, want) << i;
  }
}

TEST(ErrorFeedback, BitsDependOnNeitherThreadsNorInstructions) {
  const std::vector<float> v = values(20001);
  const int threads = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  for (const ErrorRounding rounding : {ErrorRounding::nearest, ErrorRounding::stochastic}) {
    const ErrorFeedback settings{.block = 64, .rounding = rounding};
    set_thread_count(1);
    const Encoded one = encode(v, settings);
    const std::vector<float> back = decode(one, v.size(), settings);
    const auto expect_same = [&] {
      const Encoded other = encode(v, settings);
      EXPECT_EQ(one.codes, other.codes);
      EXPECT_TRUE(std::equal(
          one.ranges.begin(), one.ranges.end(), other.ranges.begin(), [](bf16 x, bf16 y) {
            return x.bits == y.bits;
          }));
      EXPECT_EQ(back, decode(other, v.size(), settings));
    };
    for (const int t : {2, 3}) {
      set_thread_count(t);
      expect_same();
    }
    for (const cpu::IsaLevel level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2}) {
      cpu::force_isa_level(std::min(level, best));
      expect_same();
    }
    cpu::force_isa_level(best);
  }
  set_thread_count(threads);
}

TEST(ErrorFeedback, CountsTheDeadZone) {
  const ErrorFeedback settings{.block = 4};
  const Encoded e = encode({0.f, 15.f, 3.f, 4.f, 0.f, 1.5f, 0.f, 0.f}, settings);  // steps 1, 0.1
  EXPECT_EQ(
      count_dead(
          std::vector<float>{.4f, -.4f, .6f, 0.f, .04f, .06f, 0.f, -.04f}, e.ranges, settings),
      4);
}

TEST(ErrorFeedback, RefusesBadBlocks) {
  tests::expect_error(
      Errc::config, {"even", "got 7", "use 8"}, [] { ErrorFeedback{.block = 7}.validate(); });
  tests::expect_error(
      Errc::config, {"got 0", "use 2"}, [] { ErrorFeedback{.block = 0}.validate(); });
  ErrorFeedback{}.validate();
}

}  // namespace
}  // namespace strata
