#include "core/quant.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/wide_lane.h"
#include "core/quant_range.h"
#include "tests/support/twins/codes.h"

namespace strata::quant {
namespace {

using tests::twins::Vec;

// What float arithmetic may cost a decision, in ulps of the value.
constexpr double kExcused = 4;

template <class Code>
int encoded(float y) {
  return static_cast<std::uint8_t>(Code::encode(y));
}

template <class Code>
void expect_book(const Vec& table) {
  ASSERT_EQ(table.size(), static_cast<std::size_t>(Code::kCodes));
  for (int code = 0; code < Code::kCodes; ++code) {
    const double value = table[static_cast<std::size_t>(code)];
    EXPECT_LE(std::abs(static_cast<double>(Code::decode(code)) - value),
              tests::twins::f32_ulp(value))
        << code;
    EXPECT_EQ(encoded<Code>(Code::decode(code)), code);
  }
}

/// Values of every size down to 2^-30, and 33 floats around each place where the code changes.
std::vector<float> hard_values(const Vec& table) {
  std::vector<float> values{0.f, -0.f, 1.f, 0x1p-149f, 0x1p-126f};
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-30.f, 0.f), plain(0.f, 1.f);
  for (int i = 0; i < 100000; ++i) {
    values.push_back(std::exp2(exponent(random)));
    values.push_back(plain(random));
  }
  for (std::size_t i = 0; i + 1 < table.size(); ++i) {
    auto y = static_cast<float>((table[i] + table[i + 1]) / 2);
    for (int step = 0; step < 16; ++step) {
      y = std::nextafter(y, -2.f);
    }
    for (int step = 0; step < 33; ++step, y = std::nextafter(y, 2.f)) {
      if (y >= 0.f) {
        values.push_back(y);
      } else {
        values.push_back(-y);
      }
    }
  }
  return values;
}

template <class Code>
void expect_nearest(const Vec& table) {
  const bool is_signed = table[0] < 0;
  int excused = 0, asked = 0;
  for (const float size : hard_values(table)) {
    for (const float y : {size, is_signed ? -size : size}) {
      const auto nearest = tests::twins::nearest(table, static_cast<double>(y));
      ++asked;
      if (encoded<Code>(y) != static_cast<int>(nearest.index)) {
        ++excused;
        EXPECT_LE(nearest.margin, kExcused) << y;
      }
    }
  }
  // Almost only those that were chosen to be hard.
  EXPECT_LE(excused, asked / 100);
}

TEST(DynamicCode, ValuesAndCodesAreThoseOfTheBook) {
  expect_book<Dynamic8Signed>(tests::twins::signed_8bit());
  expect_book<Dynamic8Unsigned>(tests::twins::unsigned_8bit());
  expect_book<Dynamic4Signed>(tests::twins::signed_4bit());
}

TEST(DynamicCode, EncodesToTheNearestValue) {
  expect_nearest<Dynamic8Signed>(tests::twins::signed_8bit());
  expect_nearest<Dynamic8Unsigned>(tests::twins::unsigned_8bit());
  expect_nearest<Dynamic4Signed>(tests::twins::signed_4bit());
}

TEST(DynamicCode, NumbersOfTheLiterature) {
  EXPECT_EQ(Dynamic8Signed::decode(0), -0.99296875f);
  EXPECT_EQ(Dynamic8Signed::decode(127), 0.f);
  EXPECT_FLOAT_EQ(Dynamic8Signed::decode(128), 5.5e-7f);
  EXPECT_EQ(Dynamic8Signed::decode(255), 1.f);
  EXPECT_FLOAT_EQ(Dynamic8Unsigned::decode(1), 3.25e-7f);
  EXPECT_FLOAT_EQ(Dynamic8Unsigned::decode(2), 7.75e-7f);
  EXPECT_EQ(encoded<Dynamic8Signed>(0.5f), 219);
  EXPECT_EQ(encoded<Dynamic8Signed>(-0.25f), 53);
  EXPECT_EQ(encoded<Dynamic8Signed>(0.003f), 146);
  EXPECT_EQ(encoded<Dynamic8Signed>(-1e-9f), 127);
  EXPECT_EQ(encoded<Dynamic8Signed>(-1.f), 0);
  EXPECT_EQ(encoded<Dynamic8Unsigned>(0.5f), 183);
  EXPECT_EQ(encoded<Dynamic8Unsigned>(0.01f), 62);
  EXPECT_EQ(encoded<Dynamic8Unsigned>(1e-4f), 14);
  EXPECT_EQ(encoded<Dynamic8Unsigned>(1e-7f), 0);
}

TEST(DynamicCode, TheCodeOfZeroMayStandForHalfTheLeastValue) {
  EXPECT_EQ(Dynamic8Unsigned::decode(0), 0.f);
  const auto floored = [](int code) {
    return Dynamic8Unsigned::decode<float, ZeroCode::half_least>(code);
  };
  EXPECT_FLOAT_EQ(floored(0), 0.5f * 3.25e-7f);
  for (int code = 1; code < 256; ++code) {
    ASSERT_EQ(floored(code), Dynamic8Unsigned::decode(code));
  }
}

TEST(Linear4Unsigned, HasNoZeroAndTiesGoUp) {
  expect_book<Linear4Unsigned>(tests::twins::unsigned_4bit());
  for (const float y : hard_values(tests::twins::unsigned_4bit())) {
    const auto nearest = tests::twins::nearest(tests::twins::unsigned_4bit(), y);
    ASSERT_EQ(encoded<Linear4Unsigned>(y), static_cast<int>(nearest.index)) << y;
  }
}

TEST(NormalFloat4, EncodesToTheNearestValueAndTiesGoUp) {
  const Vec& table = tests::twins::nf4();
  for (int code = 0; code < 16; ++code) {
    const auto at = static_cast<std::size_t>(code);
    EXPECT_EQ(kNormalFloat4[at], static_cast<float>(table[at]));
    EXPECT_EQ(encode_normal_float4(kNormalFloat4[at]), code);
  }
  for (int i = -100000; i <= 100000; ++i) {
    const float y = static_cast<float>(i) * 1e-5f;
    const auto nearest = tests::twins::nearest(table, static_cast<double>(y));
    if (encode_normal_float4(y) != static_cast<int>(nearest.index)) {
      EXPECT_LE(nearest.margin, kExcused) << y;
    }
  }
}

TEST(Fp8E4M3, EveryCode) {
  for (int code = 0; code < 256; ++code) {
    const double want = tests::twins::decode_e4m3(static_cast<std::uint8_t>(code));
    const float value = Fp8E4M3::decode(code);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(Fp8E4M3::encode(value) & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(static_cast<double>(value), want);
      EXPECT_EQ(std::signbit(value), (code & 0x80) != 0);
      EXPECT_EQ(Fp8E4M3::encode(value), code);
    }
  }
}

TEST(Fp8E4M3, RoundsToNearestEvenAndSaturates) {
  std::vector<float> values{448.f, 463.f, 464.f, 465.f, 1e30f, 0x1p-9f, 0x1p-10f, 0x1p-11f, 1e-30f};
  for (int code = 0; code < 0x7e; ++code) {  // half way, and both neighbours
    const float middle = 0.5f * (Fp8E4M3::decode(code) + Fp8E4M3::decode(code + 1));
    values.insert(values.end(),
                  {middle, std::nextafter(middle, 0.f), std::nextafter(middle, 1e9f)});
  }
  std::mt19937 random(2);
  std::uniform_real_distribution<float> exponent(-14.f, 10.f);
  for (int i = 0; i < 100000; ++i) {
    values.push_back(std::exp2(exponent(random)));
  }
  for (const float x : values) {
    const int want = tests::twins::encode_e4m3(static_cast<double>(x)).code;
    ASSERT_EQ(Fp8E4M3::encode(x), want) << x;
    ASSERT_EQ(Fp8E4M3::encode(-x), want | 0x80) << x;
  }
  EXPECT_EQ(Fp8E4M3::encode(std::numeric_limits<float>::infinity()), 0x7e);
}

TEST(Affine, CodesStayWithinHalfAStepAndHoldZero) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const float shift : {0.f, 3.f, -20.f}) {
    std::vector<float> x(256);
    float least = 1e30f, most = -1e30f;
    for (float& value : x) {
      value = normal(random) + shift;
      least = std::min(least, value), most = std::max(most, value);
    }
    const Affine affine = Affine::of(least, most, 8);
    EXPECT_EQ(affine.decode(affine.encode(0.f)), 0.f);
    double mean = 0;
    for (const float value : x) {
      // The zero point is rounded: an end may be half a step outside.
      EXPECT_NEAR(affine.decode(affine.encode(value)), value, 1.01f * affine.scale);
      const int below = affine.encode(value, 0.999999f), above = affine.encode(value, 0.f);
      EXPECT_LE(affine.decode(below), value + 1e-3f * affine.scale);
      EXPECT_LE(above - below, 1);
      mean += static_cast<double>(affine.decode(above));
    }
    EXPECT_TRUE(std::isfinite(mean));
  }
  EXPECT_EQ(Affine::of(0.f, 0.f, 8).encode(0.f), 0);
}

/// Codes and values of every lane type that this machine has.
template <class Code>
void expect_lanes_agree(const Vec& table) {
  std::vector<float> y = hard_values(table);
  y.resize(y.size() / 16 * 16);
  std::vector<std::uint8_t> every(256);
  for (std::size_t i = 0; i < 256; ++i) {
    every[i] = static_cast<std::uint8_t>(i % Code::kCodes);
  }
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    constexpr auto kStep = static_cast<std::size_t>(cpu::kLanesOf<F>);
    for (std::size_t i = 0; i < y.size(); i += kStep) {
      F value;
      cpu::read(value, y.data() + i);
      std::uint8_t codes[16];
      cpu::write_bytes(codes, Code::encode(value));
      for (std::size_t l = 0; l < kStep; ++l) {
        ASSERT_EQ(codes[l], encoded<Code>(y[i + l])) << y[i + l];
      }
    }
    for (std::size_t i = 0; i < every.size(); i += kStep) {
      LaneInt<F> code;
      cpu::read_bytes(code, every.data() + i);
      float values[16];
      cpu::write(values, Code::template decode<F>(code));
      for (std::size_t l = 0; l < kStep; ++l) {
        ASSERT_EQ(values[l], Code::decode(every[i + l])) << i + l;
      }
    }
  });
}

TEST(DynamicCode, SixteenLanesGiveTheBitsOfOne) {
  expect_lanes_agree<Dynamic8Signed>(tests::twins::signed_8bit());
  expect_lanes_agree<Dynamic8Unsigned>(tests::twins::unsigned_8bit());
  expect_lanes_agree<Dynamic4Signed>(tests::twins::signed_4bit());
  expect_lanes_agree<Linear4Unsigned>(tests::twins::unsigned_4bit());
}

// A group of magnitudes with its range, coded by the kernel.
struct Group {
  std::vector<float> x;
  ExpandedRange range;
  std::vector<std::uint8_t> codes;
  std::vector<float> values;

  explicit Group(std::vector<float> elements) : x(std::move(elements)) {
    float least = std::numeric_limits<float>::infinity(), most = 0.f;
    for (const float value : x) {
      const float size = std::abs(value);
      least = size > 0.f ? std::min(least, size) : least;
      most = std::max(most, size);
    }
    range = ExpandedRange::of(least, most);
    const auto encoder = ExpandedEncoder::of(range);
    ExpandedDecoder decoder;
    decoder.make(ExpandedDecoder::Exponents::of(range));
    for (const float value : x) {
      codes.push_back(static_cast<std::uint8_t>(encoder.encode(value)));
      values.push_back(decoder.decode<float>(codes.back()));
    }
  }
};

Group random_group(std::mt19937& random, double low, double span) {
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<float> x(128);
  for (float& value : x) {
    const double size = std::exp2(low + span * uniform(random));
    value = static_cast<float>(uniform(random) < 0.5 ? -size : size);
    value = uniform(random) < 0.05 ? 0.f : value;
  }
  return Group(std::move(x));
}

void expect_as_the_twin(const Group& group) {
  const std::vector<double> x(group.x.begin(), group.x.end());
  const auto own = tests::twins::quantise_expanded(x);
  const auto power = static_cast<double>(group.range.power);
  EXPECT_TRUE(own.exponent == power || own.exponent_margin <= kExcused);
  const auto twin = tests::twins::quantise_expanded(x, power);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (group.codes[i] != twin.codes[i]) {
      EXPECT_LE(twin.margin[i], kExcused) << x[i];
    }
    const double value = tests::twins::dequantise_expanded(group.codes[i],
                                                           static_cast<double>(group.range.scale),
                                                           power,
                                                           static_cast<double>(group.range.centre));
    ASSERT_NEAR(static_cast<double>(group.values[i]), value, 3e-7 * std::abs(value)) << x[i];
    ASSERT_EQ(std::signbit(group.values[i]), std::signbit(group.x[i]) && group.codes[i] != 0);
  }
}

TEST(ExpandedRange, CodesAndValuesAreTheTwins) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int i = 0; i < 600; ++i) {
    const double span = (i % 3 == 0 ? 180 : (i % 3 == 1 ? 20 : 0.5)) * uniform(random);
    expect_as_the_twin(random_group(random, -90 + (200 - span) * uniform(random), span));
  }
}

TEST(ExpandedRange, ErrorIsWithinTheExactBound) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int i = 0; i < 600; ++i) {
    const Group group = random_group(random, -40 + 60 * uniform(random), 40 * uniform(random));
    const auto k = static_cast<double>(group.range.power);
    for (std::size_t e = 0; e < group.x.size(); ++e) {
      const double size = std::abs(static_cast<double>(group.x[e]));
      if (size == 0) {
        EXPECT_EQ(group.values[e], 0.f);
        continue;
      }
      const double y = std::pow(size / static_cast<double>(group.range.centre), k) /
                       static_cast<double>(group.range.scale);
      const double delta = y >= 0x1p-6 ? 0x1p-4 : 0x1p-10 / y;
      const double bound =
          std::max(std::pow(1 + delta, 1 / k) - 1, 1 - std::pow(1 - delta, 1 / k)) + 1e-6;
      EXPECT_LE(std::abs(static_cast<double>(group.values[e]) / group.x[e] - 1), bound);
      EXPECT_NE(group.codes[e], 0);  // nothing flushes to zero
    }
  }
}

TEST(ExpandedRange, DegenerateGroups) {
  for (const float size : {1e-38f, 1e-20f, 1.f, 3e38f}) {
    const Group single({size, -size, 0.f});
    EXPECT_EQ(single.range.power, 1.f);
    if (size > 1e-30f) {
      EXPECT_NEAR(single.values[0] / size, 1.f, 1e-6f);
      EXPECT_NEAR(single.values[1] / size, -1.f, 1e-6f);
    }
    EXPECT_EQ(single.values[2], 0.f);
  }
  const Group wide({3e38f, 1e-29f, 0x1p-149f, -2.f});
  for (const float value : wide.values) {
    EXPECT_TRUE(std::isfinite(value));
  }
  EXPECT_EQ(wide.values[2], 0.f);
  const Group close({1.f, std::nextafter(1.f, 2.f)});
  EXPECT_EQ(close.range.power, 64.f);
  EXPECT_NEAR(close.values[0], 1.f, 2e-3f);
}

}  // namespace
}  // namespace strata::quant
