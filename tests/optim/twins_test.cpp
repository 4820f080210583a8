#include <functional>

#include <gtest/gtest.h>

#include "tests/support/twins/adam_mini.h"
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/lion.h"
#include "tests/support/twins/muon.h"
#include "tests/support/twins/percentile_clip.h"
#include "tests/support/twins/sgd.h"

namespace strata::tests::twins {
namespace {

const double kGradients[] = {0.5, -0.25, 0.125};

/// Reproducible values, roughly normal.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed * 2 + 1) {}
  double uniform() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
  }
  Vec normals(std::size_t n) {
    Vec out(n);
    for (double& value : out) {
      value = normal();
    }
    return out;
  }

 private:
  std::uint64_t state_;
};

TEST(Twins, AdamWMeetsTheVectorsOfEveryFamily) {
  const struct {
    Family family;
    double eps, after[3];
  } rows[] = {{Family::pytorch, 1e-8, {0.890000002000, 0.854466298688, 0.811878721910}},
              {Family::bnb, 1e-8, {0.891000001980, 0.855722635701, 0.813462924691}},
              {Family::hf, 1e-8, {0.891000062613, 0.855722709982, 0.813463015831}},
              {Family::pytorch, 1e-2, {0.891960784314, 0.857064729064, 0.815450663186}},
              {Family::hf, 1e-2, {0.929355162786, 0.903223264108, 0.872482870096}}};
  for (const auto& row : rows) {
    AdamWSettings settings;
    settings.family = row.family;
    settings.eps = row.eps;
    settings.weight_decay = 0.1;
    Vec weights{1};
    AdamState state = adam_start(settings, 1);
    for (int t = 1; t <= 3; ++t) {
      const AdamWStep step = adamw(weights, state, {kGradients[t - 1]}, settings, 0.1, t);
      weights = step.weights;
      state = step.state;
      EXPECT_NEAR(weights[0], row.after[t - 1], 5.1e-13);
    }
  }
}

TEST(Twins, SgdMeetsItsVectors) {
  const double plain[] = {0.94, 0.9016, 0.845524}, ahead[] = {0.886, 0.868066, 0.797156146};
  for (const Lookahead lookahead : {Lookahead::plain, Lookahead::nesterov}) {
    SgdSettings settings;
    settings.momentum = 0.9;
    settings.weight_decay = 0.1;
    settings.lookahead = lookahead;
    Vec weights{1};
    Moment b = zero_moment(Codec::f32, Sign::both, 1);
    for (int t = 1; t <= 3; ++t) {
      const SgdStep step = sgd(weights, b, {kGradients[t - 1]}, settings, 0.1, t);
      weights = step.weights;
      b = step.b;
      EXPECT_NEAR(weights[0], (lookahead == Lookahead::plain ? plain : ahead)[t - 1], 1e-14);
    }
  }
}

TEST(Twins, LionMeetsItsVectorAndTakesNoStepFromZero) {
  LionSettings settings;
  settings.weight_decay = 0.1;
  const double after[] = {0.89, 0.9811, 0.871289};
  Vec weights{1};
  Moment m = zero_moment(Codec::f32, Sign::both, 1);
  for (int t = 1; t <= 3; ++t) {
    const LionStep step = lion(weights, m, {kGradients[t - 1]}, settings, 0.1);
    weights = step.weights;
    m = step.m;
    EXPECT_NEAR(weights[0], after[t - 1], 1e-14);
  }
  const LionStep still =
      lion({3}, zero_moment(Codec::f32, Sign::both, 1), {0}, LionSettings{}, 0.1);
  EXPECT_EQ(still.weights[0], 3);
  EXPECT_EQ(still.blend_margin[0], kFar);
}

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

TEST(Twins, CodedAdamWStaysNearTheExactOne) {
  for (const Codec codec : {Codec::bf16, Codec::dynamic8, Codec::four_bit, Codec::fp8}) {
    AdamWSettings coded;
    coded.m_codec = coded.v_codec = codec;
    const AdamWSettings exact;
    const std::size_t n = 301;
    AdamState a = adam_start(exact, n), b = adam_start(coded, n);
    Draws draws(5);
    Vec w_exact(n, 0.0), w_coded(n, 0.0);
    for (int t = 1; t <= 20; ++t) {
      const Vec g = draws.normals(n);
      const AdamWStep one = adamw(w_exact, a, g, exact, 1e-3, t);
      const AdamWStep two = adamw(w_coded, b, g, coded, 1e-3, t);
      w_exact = one.weights;
      w_coded = two.weights;
      a = one.state;
      b = two.state;
      if (t == 1) {
        EXPECT_EQ(w_exact, w_coded);
      }
    }
    double apart = 0;
    for (std::size_t i = 0; i < n; ++i) {
      apart += std::pow(w_exact[i] - w_coded[i], 2);
    }
    EXPECT_LT(std::sqrt(apart) / norm(w_exact), codec == Codec::four_bit ? 0.5 : 0.1);
    EXPECT_GT(apart, 0);
  }
}

TEST(Twins, AdamMiniIsAdamWWithMeanSquares) {
  Draws draws(6);
  const std::size_t rows = 5, columns = 7, n = rows * columns;
  AdamWSettings settings;
  settings.weight_decay = 0.1;
  AdamState state = adam_start(settings, n);
  std::vector<std::size_t> each(n);
  std::iota(each.begin(), each.end(), std::size_t{0});
  const std::vector<std::size_t> by_row = groups_of_rows(rows, columns);
  Vec w_adam(n, 1.0), w_mini(n, 1.0), w_rows(n, 1.0), m(n), v(n), m_rows(n), v_rows(rows);
  const AdamMiniSettings mini{0.9, 0.999, 1e-8, 0.1};
  for (int t = 1; t <= 10; ++t) {
    const Vec g = draws.normals(n);
    const AdamWStep adam = adamw(w_adam, state, g, settings, 0.1, t);
    const AdamMiniStep own = adam_mini(w_mini, m, v, g, each, mini, 0.1, t);
    const AdamMiniStep row = adam_mini(w_rows, m_rows, v_rows, g, by_row, mini, 0.1, t);
    w_adam = adam.weights;
    state = adam.state;
    w_mini = own.weights;
    m = own.m;
    v = own.v;
    w_rows = row.weights;
    m_rows = row.m;
    v_rows = row.v;
  }
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_NEAR(w_mini[i], w_adam[i], 1e-14);
    EXPECT_EQ(m_rows[i], state.m.values[i]);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    double mean = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      mean += state.v.values[r * columns + j] / columns;
    }
    EXPECT_NEAR(v_rows[r], mean, 1e-15);
  }
}

TEST(Twins, NewtonSchulzMeetsItsScalars) {
  const double pairs[][2] = {{1, 0.696436},
                             {0.9, 0.682011},
                             {0.5, 0.765439},
                             {0.1, 0.712120},
                             {0.05, 0.758120},
                             {0.01, 0.698917},
                             {0.001, 0.470544}};
  for (const auto& pair : pairs) {
    EXPECT_NEAR(newton_schulz_scalar(pair[0]), pair[1], 5.1e-7);
  }
  const double by_size[][2] = {
      {4, 0.7654}, {16, 0.7145}, {64, 0.6881}, {128, 0.7228}, {256, 1.0705}, {1024, 1.1329}};
  for (const auto& pair : by_size) {
    EXPECT_NEAR(newton_schulz_scalar(1 / std::sqrt(pair[0])), pair[1], 5.1e-5);
  }
}

Matrix random_matrix(std::size_t rows, std::size_t columns, Draws& draws) {
  return {rows, columns, draws.normals(rows * columns)};
}

TEST(Twins, SingularValuesRebuildTheMatrix) {
  Draws draws(7);
  for (const auto& [rows, columns] : {std::pair{9, 4}, std::pair{4, 9}, std::pair{6, 6}}) {
    const Matrix x =
        random_matrix(static_cast<std::size_t>(rows), static_cast<std::size_t>(columns), draws);
    const Svd parts = svd(x);
    Matrix scaled = parts.u;
    for (std::size_t i = 0; i < scaled.rows; ++i) {
      for (std::size_t j = 0; j < scaled.columns; ++j) {
        scaled.at(i, j) *= parts.s[j];
      }
    }
    const Matrix back = product(scaled, transposed(parts.v));
    for (std::size_t i = 0; i < x.values.size(); ++i) {
      EXPECT_NEAR(back.values[i], x.values[i], 1e-12);
    }
    EXPECT_TRUE(std::is_sorted(parts.s.rbegin(), parts.s.rend()));
  }
}

TEST(Twins, NewtonSchulzActsOnSingularValuesAlone) {
  Draws draws(8);
  const Matrix x = random_matrix(7, 4, draws);
  const Svd before = svd(x), after = svd(newton_schulz(x));
  Vec want;
  for (const double s : before.s) {
    want.push_back(newton_schulz_scalar(s / (norm(x.values) + 1e-7)));
  }
  std::sort(want.rbegin(), want.rend());
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(after.s[i], want[i], 1e-12);
  }
  const Matrix none = newton_schulz(zeros(3, 2));
  EXPECT_EQ(none.values, Vec(6));
}

TEST(Twins, MuonScalesByShapeAndDecaysFirst) {
  Draws draws(9);
  const Matrix w = random_matrix(8, 2, draws), g = random_matrix(8, 2, draws);
  MuonSettings settings;
  settings.weight_decay = 0.1;
  const MuonStep step = muon(w, zeros(8, 2), g, settings, 0.02);
  EXPECT_NEAR(step.m.values[3], 0.05 * g.values[3], 1e-15);
  EXPECT_NEAR(step.input.values[3], (0.05 + 0.95 * 0.05) * g.values[3], 1e-15);
  const Matrix o = newton_schulz(g);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(step.weights.values[i], w.values[i] * 0.998 - 0.02 * 2 * o.values[i], 1e-5);
  }
  settings.scale = MuonSettings::Scale::moonlight;
  const MuonStep light = muon(w, zeros(8, 2), g, settings, 0.02);
  EXPECT_NEAR(
      light.direction.values[0] / step.direction.values[0], 0.2 * std::sqrt(8.0) / 2, 1e-12);
}

TEST(Twins, PercentileClippingKeepsAHundredNorms) {
  Vec ring(100);
  PercentileClip clip = percentile_clip(ring, {3, 4}, 5, 1);
  EXPECT_EQ(clip.ring, Vec(100, 25.0));
  EXPECT_EQ(clip.factor, 1);
  clip = percentile_clip(clip.ring, {6, 8}, 5, 2);
  EXPECT_EQ(clip.factor, 0.5);
  EXPECT_EQ(percentile_clip(clip.ring, {60, 80}, 100, 3).factor, 1);
  for (int t = 3; t <= 100; ++t) {
    clip = percentile_clip(clip.ring, {6, 8}, 5, t);
  }
  EXPECT_EQ(clip.factor, 1);  // one slot of the first step is left, and five are allowed below
}

}  // namespace
}  // namespace strata::tests::twins
