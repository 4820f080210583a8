#include <numeric>

#include <gtest/gtest.h>

#include "tests/support/twins/adam_mini.h"
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/draws.h"
#include "tests/support/twins/lion.h"
#include "tests/support/twins/muon.h"
#include "tests/support/twins/percentile_clip.h"
#include "tests/support/twins/sgd.h"

namespace strata::tests::twins {
namespace {

const double kGradients[] = {0.5, -0.25, 0.125};

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
  // m blends with its own beta: .01 g, then .99 of that and .01 g.
  EXPECT_NEAR(m.values[0], 0.99 * (0.99 * 0.005 - 0.0025) + 0.00125, 1e-15);
  const LionStep still =
      lion({3}, zero_moment(Codec::f32, Sign::both, 1), {0}, LionSettings{}, 0.1);
  EXPECT_EQ(still.weights[0], 3);
  EXPECT_EQ(still.blend_margin[0], kFar);
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
  for (int t = 3; t <= 96; ++t) {
    clip = percentile_clip(clip.ring, {6, 8}, 5, t);
    EXPECT_EQ(clip.factor, t < 96 ? 0.5 : 1) << t;  // five slots of the first step are left
  }
}

}  // namespace
}  // namespace strata::tests::twins
