#include <functional>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/support/twins/draws.h"
#include "tests/support/twins/moments.h"

namespace strata::tests::twins {
namespace {

TEST(Twins, SignedCodeBook) {
  const Vec& table = signed_8bit();
  ASSERT_EQ(table.size(), 256u);
  EXPECT_EQ(table[127], 0);
  EXPECT_NEAR(table[0], -0.99296875, 3e-8);
  EXPECT_EQ(table[255], 1);
  EXPECT_NEAR(table[254], 0.99296875, 3e-8);
  EXPECT_NEAR(table[126], -5.5e-7, 1e-13);
  EXPECT_NEAR(table[128], 5.5e-7, 1e-13);
  double sum = 0;
  for (std::size_t i = 0; i < 256; ++i) {
    sum += table[i];
    EXPECT_TRUE(i == 0 || table[i - 1] < table[i]);
  }
  EXPECT_NEAR(sum, 1.0, 1e-12);
  const struct {
    double x;
    std::size_t code;
    double entry;
  } rows[] = {{1, 255, 1},
              {0.5, 219, 0.50078125},
              {-0.25, 53, -0.24765625},
              {0.003, 146, 0.00296875},
              {-1e-9, 127, 0},
              {-1, 0, -0.99296875}};
  for (const auto& row : rows) {
    EXPECT_EQ(nearest(table, row.x).index, row.code) << row.x;
    EXPECT_NEAR(table[row.code], row.entry, 3e-8);
  }
}

TEST(Twins, UnsignedCodeBook) {
  const Vec& table = unsigned_8bit();
  ASSERT_EQ(table.size(), 256u);
  EXPECT_EQ(table[0], 0);
  EXPECT_NEAR(table[1], 3.25e-7, 1e-13);
  EXPECT_NEAR(table[2], 7.75e-7, 1e-13);
  EXPECT_EQ(table[255], 1);
  EXPECT_NEAR(table[254], 0.996484375, 1e-7);
  EXPECT_NEAR(std::accumulate(table.begin(), table.end(), 0.0), 75.1052631, 5e-7);
  const struct {
    double x;
    std::size_t code;
    double entry;
  } rows[] = {
      {0.5, 183, 0.497265625}, {0.01, 62, 0.009859375}, {1e-4, 14, 9.4375e-5}, {1e-7, 0, 0}};
  for (const auto& row : rows) {
    EXPECT_EQ(nearest(table, row.x).index, row.code) << row.x;
    EXPECT_NEAR(table[row.code], row.entry, 3e-8);
  }
}

TEST(Twins, NearestCodeSendsMidpointsUpAndMeasuresTheDistance) {
  const Vec table{0, 1, 2};
  EXPECT_EQ(nearest(table, 0.5).index, 1u);
  EXPECT_EQ(nearest(table, 0.5).margin, 0);
  const Nearest near = nearest(table, 1.5 - 3 * f32_ulp(1.5));
  EXPECT_EQ(near.index, 1u);
  EXPECT_DOUBLE_EQ(near.margin, 3);
  EXPECT_DOUBLE_EQ(nearest(table, 1.5 - 3 * f32_ulp(1.5), 8.5).term_margin, 3.0 / 8);
}

TEST(Twins, FourBitBooks) {
  const double positive[] = {0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1};
  ASSERT_EQ(signed_4bit().size(), 16u);
  EXPECT_EQ(signed_4bit()[7], 0);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(signed_4bit()[8 + i], positive[i], 3e-8);
    if (i < 7) {
      EXPECT_EQ(signed_4bit()[6 - i], -signed_4bit()[8 + i]);
    }
  }
  EXPECT_EQ(unsigned_4bit().front(), 1.0 / 16);
  EXPECT_EQ(unsigned_4bit().back(), 1);
}

double normal_quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return low;
}

TEST(Twins, NormalFloatTableIsItsConstruction) {
  const double offset = 0.9677083;
  Vec built{0};
  for (int i = 0; i < 8; ++i) {
    built.push_back(normal_quantile(offset + (0.5 - offset) * i / 8));
  }
  for (int i = 0; i < 7; ++i) {
    built.push_back(-normal_quantile(offset + (0.5 - offset) * i / 7));
  }
  std::sort(built.begin(), built.end());
  ASSERT_EQ(nf4().size(), 16u);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(nf4()[i], built[i] / built.back(), 2e-7) << i;
  }
}

TEST(Twins, FourBitFloatTableAndPacking) {
  const double twelfths[] = {0, 0.0625, 8, 12, 4, 6, 2, 3};
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_DOUBLE_EQ(fp4()[i], twelfths[i] / 12);
    EXPECT_DOUBLE_EQ(fp4()[8 + i], -twelfths[i] / 12);
  }
  EXPECT_TRUE(std::signbit(fp4()[8]));
  EXPECT_EQ(nearest_fp4(0.7).index, 2u);
  EXPECT_EQ(nearest_fp4(-0.9).index, 11u);
  EXPECT_EQ(nearest_fp4(0.0).index, 0u);
  const Bytes packed = pack_nibbles(Bytes{1, 2, 15});
  EXPECT_EQ(packed, (Bytes{0x12, 0xF0}));
  EXPECT_EQ(nibble(packed, 0), 1);
  EXPECT_EQ(nibble(packed, 1), 2);
  EXPECT_EQ(nibble(packed, 2), 15);
}

TEST(Twins, E4m3HoldsEveryCodeAndRoundsToEven) {
  EXPECT_EQ(decode_e4m3(0x7E), 448);
  EXPECT_EQ(decode_e4m3(1), 0x1p-9);
  EXPECT_TRUE(std::isnan(decode_e4m3(0x7F)));
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7F) != 0x7F && code != 0x80) {
      EXPECT_EQ(encode_e4m3(decode_e4m3(static_cast<std::uint8_t>(code))).code, code);
    }
  }
  EXPECT_EQ(encode_e4m3(1e9).code, 0x7E);
  EXPECT_EQ(encode_e4m3(-1e9).code, 0xFE);
  EXPECT_EQ(decode_e4m3(encode_e4m3(432).code), 448);  // 416 is odd
  EXPECT_EQ(decode_e4m3(encode_e4m3(400).code), 384);
  EXPECT_EQ(encode_e4m3(432).edge, 0);
  EXPECT_EQ(decode_e4m3(encode_e4m3(0x1p-10).code), 0);
  EXPECT_EQ(decode_e4m3(encode_e4m3(3 * 0x1p-10).code), 0x1p-8);
}

TEST(Twins, ExpandedGroupsMeetTheExamples) {
  EXPECT_EQ(quantise_expanded(Vec{10, 1}).exponent, 5.0);
  EXPECT_EQ(quantise_expanded(Vec{1000, 1}).exponent, 1.625);
  EXPECT_EQ(quantise_expanded(Vec{1e6, 1}).exponent, 0.8125);
  const Vec x{1, 0.5, -0.25, 0.1}, want{1, 0.5, -0.25, 0.097296};
  const Vec scaled{448, 14, -0.4375, 0.00448};
  const ExpandedGroup group = quantise_expanded(x);
  for (std::size_t i = 0; i < 4; ++i) {
    const double y = std::copysign(std::pow(std::abs(x[i]) / group.centre, group.exponent), x[i]);
    EXPECT_NEAR(y / group.scale, scaled[i], 1e-9 * std::abs(scaled[i]));
    EXPECT_NEAR(dequantise_expanded(group.codes[i], group.scale, group.exponent, group.centre),
                want[i],
                1e-6);
  }
}

TEST(Twins, ExpandedGroupsStayFiniteWhereTheyDegenerate) {
  EXPECT_EQ(quantise_expanded(Vec{0, 0}).scale, 0);
  const ExpandedGroup one = quantise_expanded(Vec{0, -3, 3, 0});
  EXPECT_EQ(one.exponent, 1);
  EXPECT_EQ(one.codes, (Bytes{0, 0xFE, 0x7E, 0}));
  EXPECT_NEAR(dequantise_expanded(0xFE, one.scale, one.exponent, one.centre), -3, 1e-14);
  EXPECT_EQ(quantise_expanded(Vec{1, 1.0001}).exponent, 64);
  EXPECT_EQ(dequantise_expanded(0x7E, 0, 0, 0), 0);
}

TEST(Twins, ExpandedGroupsAreComparedByTheirLargest) {
  const Vec x{1, 0.5, 1e-6}, terms{1, 0.5, 0.25};
  const ExpandedGroup clean = quantise_expanded(x), blurred = quantise_expanded(x, {}, terms);
  EXPECT_NEAR(largest_of(clean.scale, clean.exponent, clean.centre), 1, 1e-14);
  EXPECT_NEAR(blurred.centre_ulp, 0x1p-25 / 1e-6 / 2, 1e-8);
  EXPECT_LT(blurred.exponent_margin, clean.exponent_margin / 1000);
  EXPECT_EQ(quantise_expanded(x, 0.5).exponent, 0.5);
}

// Spec 11.4 with its correction: y = (|x|/c)^k / s, delta = 2^-4, or 2^-10 / y below 2^-6.
TEST(Twins, ExpandedGroupsKeepTheirErrorBoundAndFlushNothing) {
  Draws draws(1);
  for (int g = 0; g < 200; ++g) {
    Vec x(128);
    for (double& value : x) {
      value = std::copysign(std::exp(2 * draws.normal()), draws.normal());
    }
    const ExpandedGroup group = quantise_expanded(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double y = std::pow(std::abs(x[i]) / group.centre, group.exponent) / group.scale;
      const double delta = y >= 0x1p-6 ? 0x1p-4 : 0x1p-10 / y, k = group.exponent;
      const double bound =
          std::max(std::pow(1 + delta, 1 / k) - 1, 1 - std::pow(1 - delta, 1 / k)) + 1e-12;
      const double back = dequantise_expanded(group.codes[i], group.scale, k, group.centre);
      ASSERT_LE(std::abs(back / x[i] - 1), bound);
      ASSERT_GT(back / x[i], 0);
    }
  }
}

TEST(Twins, Bf16RoundsToEvenAndKnowsItsMargin) {
  EXPECT_EQ(round_bf16(1 + 0x1p-8).value, 1);
  EXPECT_EQ(round_bf16(1 + 3 * 0x1p-8).value, 1 + 0x1p-6);
  EXPECT_EQ(round_bf16(-1 - 0x1.8p-8).value, -1 - 0x1p-7);
  EXPECT_EQ(round_bf16(1 + 0x1p-8 + 0x1p-22).margin, 2);
  EXPECT_EQ(round_bf16(1 + 0x1p-8 + 0x1p-22).other, 1);
  EXPECT_EQ(round_bf16(0x1.FFp127).value, kFar);
  EXPECT_EQ(round_bf16(0x1.FEp127).value, kBf16Max);
  EXPECT_EQ(round_bf16(0x1p-133).value, 0x1p-133);
  EXPECT_EQ(round_bf16(0x1p-135).value, 0);
  EXPECT_EQ(round_bf16_directed(1 + 0x1p-20, -1).value, 1);
  EXPECT_EQ(round_bf16_directed(1 + 0x1p-20, +1).value, 1 + 0x1p-7);
  EXPECT_EQ(round_bf16_directed(-1 - 0x1p-20, -1).value, -1 - 0x1p-7);
  EXPECT_EQ(round_bf16_directed(2, +1).value, 2);
}

TEST(Twins, StochasticBf16AveragesToTheValue) {
  for (const float x : {1.2345678f, -3.3e-7f, 0.f, 1e-40f}) {
    double sum = 0;
    for (std::uint32_t r = 0; r < 65536; ++r) {
      sum += round_bf16_stochastic(static_cast<double>(x), r).value;
    }
    EXPECT_EQ(sum / 65536, static_cast<double>(x));
  }
  EXPECT_EQ(round_bf16_stochastic(1 + 0x1p-23, 0xFFFF).value, 1 + 0x1p-7);
  EXPECT_EQ(round_bf16_stochastic(1 + 0x1p-23, 0xFFFE).value, 1);
  EXPECT_EQ(round_bf16_stochastic(1 + 0x1p-23, 0xFFFE).margin, 1);
  EXPECT_EQ(round_bf16_stochastic(0x1.FFFFFEp127, 0xFFFF).value, kBf16Max);
}

TEST(Twins, StochasticBf16MovesAsFarAsItsUpdates) {
  Draws draws(2);
  double weight = 1;
  for (int i = 0; i < 50'000; ++i) {
    const auto r = static_cast<std::uint32_t>(draws.uniform() * 65536);
    weight = round_bf16_stochastic(weight + 1e-3 * 0x1p-7, r).value;
  }
  EXPECT_NEAR((weight - 1) / 0x1p-7, 50, 35);
}

double kahan_run(const std::function<double()>& update, int steps, double& exact) {
  double weight = 1, carry = 0;
  exact = 1;
  for (int i = 0; i < steps; ++i) {
    const double delta = update() * 0x1p-7;
    exact += delta;
    const KahanBf16 next = kahan_bf16(weight, carry, delta);
    weight = next.weight.value;
    carry = next.carry.value;
  }
  return (weight - exact) / 0x1p-7;
}

TEST(Twins, KahanBf16FollowsSmallUpdatesAndStallsWhereTheSpecSaysSo) {
  Draws draws(3);
  double exact = 0;
  EXPECT_LE(std::abs(kahan_run([&] { return 0.1 * draws.normal(); }, 100'000, exact)), 2);
  EXPECT_NEAR(kahan_run([] { return 0.01; }, 10'000, exact), 0, 3);
  EXPECT_NEAR(kahan_run([] { return 0.0005; }, 100'000, exact) + 50, 0.25, 0.8);
  EXPECT_NEAR(kahan_run([] { return 0.001; }, 100'000, exact) + 100, 128.5, 0.8);
}

TEST(Twins, IntegerCodesNeedZeroInTheRange) {
  const Vec x{5, 5.5, 6};
  const IntQuantised found = quantise_int(x, 8, 256, IntRange::as_found);
  const Vec lost = dequantise_int(found.codes, found.scale, found.zero, 256);
  EXPECT_NEAR(lost[2], 1.0, 0.01);
  const IntQuantised native = quantise_int(x, 8, 256);
  const Vec back = dequantise_int(native.codes, native.scale, native.zero, 256);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(back[i], x[i], native.scale[0] / 2 + 1e-12);
  }
}

TEST(Twins, IntegerZeroPointIsTheNearest) {
  const IntQuantised q = quantise_int(Vec{-0.5, 0, 1.8}, 8, 256);
  EXPECT_NEAR(q.scale[0], 2.3 / 255, 1e-15);
  EXPECT_EQ(q.zero[0], 55);                 // 55.43
  EXPECT_EQ(q.codes, (Bytes{0, 55, 255}));  // the last is 254.57 before it is rounded
  EXPECT_NEAR(q.zero_margin[0] * f32_ulp(55.4), 0.0652, 1e-4);
}

TEST(Twins, StochasticIntegerCodesAverageToTheValue) {
  Vec x(256, 0.0);
  x[0] = -1;
  x[1] = 1;
  x[2] = 0.1234;
  double sum = 0;
  for (int j = 0; j < 10'000; ++j) {
    const Vec noise(256, (j + 0.5) / 10'000);
    const IntQuantised q = quantise_int(x, 8, 256, IntRange::with_zero, noise);
    const double back = q.scale[0] * (q.codes[2] - q.zero[0]);
    EXPECT_LE(std::abs(back - x[2]), q.scale[0]);
    sum += back;
  }
  EXPECT_NEAR(sum / 10'000, x[2], 2.0 / 255 / 10'000);
}

TEST(Twins, TableValuesTravelExactlyAndErrorsAreHalfAGap) {
  Vec x = signed_8bit();
  Encoded stored = encode(Codec::dynamic8, Sign::both, x);
  EXPECT_EQ(decode(stored.state), x);
  EXPECT_EQ(stored.state.codes[127], 127);
  Draws draws(4);
  x = draws.normals(1000);
  stored = encode(Codec::dynamic8, Sign::both, x);
  EXPECT_EQ(stored.state.scale.size(), 4u);
  const Vec back = decode(stored.state);
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_LE(std::abs(back[i] - x[i]), stored.state.scale[i / 256] * 0.00712);
  }
  const Encoded none = encode(Codec::dynamic8, Sign::both, Vec(3));
  EXPECT_EQ(none.state.codes, (Bytes{127, 127, 127}));
  EXPECT_EQ(decode(none.state), Vec(3));
  EXPECT_EQ(decode(zero_moment(Codec::dynamic8, Sign::both, 3)), Vec(3));
}

TEST(Twins, SignGuardMovesTinyNegativesOnly) {
  const Vec x{1, -1e-9, 1e-9, -0.0};
  const Encoded native = encode(Codec::dynamic8, Sign::both, x);
  EXPECT_EQ(native.state.codes, (Bytes{255, 127, 127, 127}));
  const Encoded guarded = encode(Codec::dynamic8, Sign::both, x, {}, {SignGuard::on, {}});
  EXPECT_EQ(guarded.state.codes, (Bytes{255, 126, 127, 127}));
}

TEST(Twins, ZeroCodeOfASecondMomentReadsAsHalfTheLeastEntry) {
  const Encoded stored = encode(Codec::dynamic8, Sign::positive, Vec{4, 1e-8});
  EXPECT_EQ(stored.state.codes[1], 0);
  EXPECT_EQ(decode(stored.state)[1], 0);
  EXPECT_NEAR(decode(stored.state, ZeroCode::floor)[1], 4 * 3.25e-7 / 2, 1e-13);
  EXPECT_EQ(decode(zero_moment(Codec::dynamic8, Sign::positive, 2), ZeroCode::floor), Vec(2));
}

/// Codes of m = .9 m + .1 g in plain f32 arithmetic.
Bytes float_codes(const Vec& m, const Vec& g, const Vec& table, std::size_t block) {
  std::vector<float> x;
  for (std::size_t i = 0; i < m.size(); ++i) {
    x.push_back(0.9f * static_cast<float>(m[i]) + 0.1f * static_cast<float>(g[i]));
  }
  Bytes codes;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(i / block * block);
    const auto end =
        x.size() - i / block * block > block ? first + static_cast<std::ptrdiff_t>(block) : x.end();
    float largest = 0;
    for (auto it = first; it != end; ++it) {
      largest = std::max(largest, std::abs(*it));
    }
    const float ratio = x[i] / largest;
    std::uint8_t code = 0;
    while (code + 1u < table.size() &&
           ratio >= static_cast<float>((table[code] + table[code + 1u]) / 2)) {
      ++code;
    }
    codes.push_back(code);
  }
  return codes;
}

TEST(Twins, MarginsCoverWhatSinglePrecisionDecidesOtherwise) {
  Draws draws(6);
  std::size_t differ = 0, near = 0;
  for (int round = 0; round < 40; ++round) {
    Vec m = draws.normals(4096), g = draws.normals(4096), x(4096), terms(4096);
    for (std::size_t i = 0; i < m.size(); ++i) {
      m[i] = static_cast<double>(static_cast<float>(m[i]));
      g[i] = static_cast<double>(static_cast<float>(i % 2 ? -9 * m[i] * (1 + 1e-5 * g[i]) : g[i]));
      x[i] = 0.9 * m[i] + 0.1 * g[i];
      terms[i] = std::max(std::abs(m[i]), std::abs(0.1 * g[i]));
    }
    const Encoded stored = encode(Codec::dynamic8, Sign::both, x, terms);
    const Bytes codes = float_codes(m, g, signed_8bit(), 256);
    for (std::size_t i = 0; i < m.size(); ++i) {
      near += stored.term_margin[i] <= 4;
      if (codes[i] != stored.state.codes[i]) {
        ++differ;
        EXPECT_LE(stored.term_margin[i], 4) << x[i];
      }
    }
  }
  EXPECT_GT(differ, 0u);  // half of the sums cancel
  EXPECT_LT(near, 40 * 4096u / 2);
}

}  // namespace
}  // namespace strata::tests::twins
