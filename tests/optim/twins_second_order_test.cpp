#include <gtest/gtest.h>

#include "tests/support/twins/adamw.h"
#include "tests/support/twins/draws.h"
#include "tests/support/twins/mfac.h"
#include "tests/support/twins/natural_galore.h"
#include "tests/support/twins/qgalore.h"
#include "tests/support/twins/sgd_sai.h"
#include "tests/support/twins/soap.h"

namespace strata::tests::twins {
namespace {

/// x of (mu + 1/divisor C^T C) x = b over the columns of the window, without any identity.
Vec dense_solve(const Matrix& window, double mu, double divisor, const Vec& b) {
  Matrix f = product(transposed(window), window);
  for (std::size_t i = 0; i < f.rows; ++i) {
    for (std::size_t j = 0; j < f.columns; ++j) {
      f.at(i, j) = f.at(i, j) / divisor + (i == j ? mu : 0);
    }
  }
  return solve(f, b);
}

Vec row(const Matrix& x, std::size_t i) {
  return {x.values.begin() + static_cast<std::ptrdiff_t>(i * x.columns),
          x.values.begin() + static_cast<std::ptrdiff_t>((i + 1) * x.columns)};
}

void expect_close(const Vec& got, const Vec& want, double relative) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], relative * norm(want)) << i;
  }
}

TEST(Twins, NaturalGradientIsTheDenseSolve) {
  Draws draws(1);
  const Matrix history = random_matrix(5, 12, draws);
  expect_close(
      natural_gradient(history, 0.1), dense_solve(history, 0.1, 1, row(history, 4)), 1e-12);
  const Matrix one{1, 3, {1, 2, 2}};
  expect_close(natural_gradient(one, 1e-3), {1 / 9.001, 2 / 9.001, 2 / 9.001}, 1e-14);
}

TEST(Twins, NaturalGaLoreKeepsItsWindow) {
  Draws draws(2);
  NaturalGaLoreSettings settings;
  settings.window = 3;
  Matrix w = random_matrix(6, 4, draws), history;
  AdamState state = adam_start(settings.galore.adam, 12);
  const Basis basis = top_basis(random_matrix(6, 4, draws), 2);
  Matrix last;
  for (int t = 1; t <= 5; ++t) {
    last = random_matrix(6, 4, draws);
    const NaturalGaLoreStep step =
        natural_galore(w, state, history, last, basis, settings, 0.01, t);
    w = step.weights;
    state = step.state;
    history = step.history;
    EXPECT_EQ(history.rows, static_cast<std::size_t>(std::min(t, 3)));
  }
  EXPECT_EQ(row(history, 2), project(last, basis).values);
}

TEST(Twins, LazyRefreshDoublesItsGapWhileTheSubspaceStays) {
  LazyRefresh lazy;
  lazy.gap = 200;
  EXPECT_TRUE(lazy.is_due(0));
  lazy.refreshed(0, {1, 0});
  EXPECT_TRUE(lazy.queue.empty());
  for (int i = 1; i <= 4; ++i) {
    lazy.refreshed(200 * i, {i % 2 == 0 ? 1.0 : -1.0, 0});
    EXPECT_EQ(lazy.gap, 200);
  }
  lazy.refreshed(1000, {-2, 0});
  EXPECT_EQ(lazy.gap, 400);
  EXPECT_FALSE(lazy.is_due(1200));
  EXPECT_TRUE(lazy.is_due(1400));
  lazy.due = LazyRefresh::Due::multiple;
  EXPECT_TRUE(lazy.is_due(1200));
  lazy.refreshed(1200, {0, 1});
  EXPECT_EQ(lazy.gap, 800);  // mean .8
  lazy.similarity = LazyRefresh::Similarity::signed_cosine;
  lazy.queue.assign(5, 1.0);
  for (int i = 0; i < 2; ++i) {
    lazy.push(-1);
  }
  EXPECT_EQ(lazy.gap, 1600);  // means .6 and .2
}

TEST(Twins, QGaLoreLeavesTheBytesWhereNothingMoves) {
  Draws draws(3);
  const GaLoreSettings settings = galore8bit_settings();
  const Matrix w = random_matrix(40, 10, draws), g = random_matrix(40, 10, draws);
  const Basis basis = top_basis(g, 2);
  const IntQuantised start = quantise_int(w.values, 8, 256);
  const AdamState state = adam_start(settings.adam, 80);
  Vec noise(400);
  for (double& u : noise) {
    u = draws.uniform();
  }
  const QGaLoreStep still = qgalore(start, 40, 10, state, g, basis, settings, 0, 1, noise);
  EXPECT_FALSE(still.moved);
  EXPECT_EQ(still.weights.codes, start.codes);
  const QGaLoreStep step = qgalore(start, 40, 10, state, g, basis, settings, 0.1, 1, noise);
  EXPECT_TRUE(step.moved);
  const Vec back = dequantise_int(step.weights.codes, step.weights.scale, step.weights.zero, 256);
  for (std::size_t i = 0; i < 400; ++i) {
    EXPECT_LE(std::abs(back[i] - step.exact[i]), step.weights.scale[i / 256] * (1 + 1e-12));
  }
}

TEST(Twins, MfacIsTheDenseSolve) {
  Draws draws(4);
  const Matrix window = random_matrix(6, 20, draws);
  const Vec x = draws.normals(20);
  expect_close(
      mfac_direction(window, 3, 0.01), dense_solve(window, 0.01, 6, row(window, 3)), 1e-12);
  expect_close(mfac_direction_of(window, x, 0.01), dense_solve(window, 0.01, 6, x), 1e-10);
  // A window of six that is not yet full still divides by six.
  Matrix part = window;
  std::fill(part.values.begin() + 40, part.values.end(), 0.0);
  expect_close(mfac_direction(part, 1, 0.01), dense_solve(part, 0.01, 6, row(part, 1)), 1e-12);
}

TEST(Twins, ErrorFeedbackLosesNothing) {
  Draws draws(5);
  Vec error(37), sent(37), all(37);
  for (int t = 0; t < 30; ++t) {
    const Vec g = draws.normals(37);
    const Sparsified step = sparsify(error, g, 16, 0.1);
    EXPECT_EQ(step.values.size(), 5u);
    error = step.error;
    for (std::size_t k = 0; k < step.values.size(); ++k) {
      sent[step.chosen.elements[k]] += step.values[k];
    }
    for (std::size_t i = 0; i < 37; ++i) {
      all[i] += g[i];
    }
  }
  for (std::size_t i = 0; i < 37; ++i) {
    EXPECT_NEAR(sent[i] + error[i], all[i], 1e-13);
  }
}

TEST(Twins, GgtDividesByTheRootInItsWindowAndByEpsOutside) {
  const Matrix window{2, 3, {3, 0, 0, 0, 4, 0}};
  const Vec age{1, 0};
  const Vec out = ggt_direction(window, age, {1, 1, 1}, 0.5, 0.1);
  EXPECT_NEAR(out[0], 1 / 1.6, 1e-5);
  EXPECT_NEAR(out[1], 1 / 4.1, 1e-5);
  EXPECT_NEAR(out[2], 10, 1e-12);
}

TEST(Twins, SgdSaiKeepsTheRatioOfItsFirstGradient) {
  const SgdSaiSettings settings;
  const Vec g{1, 2, 3, 4};
  const double snr = std::sqrt(30.0) / (std::sqrt(5.0 / 3) + 1e-8);
  SgdSaiStep step = sgd_sai(Vec(4, 1.0), Vec(4), 0, g, settings, 0.01);
  EXPECT_NEAR(step.snr, snr, 1e-14);
  EXPECT_EQ(step.b, g);
  EXPECT_NEAR(step.weights[3], 0.9999 - 0.01 * snr * 4, 1e-14);
  step = sgd_sai(step.weights, step.b, step.snr, {9, 0, 0, 0}, settings, 0.01);
  EXPECT_NEAR(step.snr, snr, 1e-14);
  EXPECT_NEAR(step.b[0], 0.9 + 0.1 * 9, 1e-15);
}

TEST(Twins, SgdSaiSurvivesDegenerateGradients) {
  EXPECT_EQ(gradient_snr({5}, 1e-8), 1);
  EXPECT_EQ(gradient_snr({0, 0}, 1e-8), 0);
  EXPECT_EQ(gradient_snr({2, 2, 2, 2}, 1e-8), 20);
  const SgdSaiStep still = sgd_sai({1, 1}, Vec(2), 0, {0, 0}, SgdSaiSettings{}, 0.1);
  EXPECT_EQ(still.snr, 0);
  const SgdSaiStep late = sgd_sai({1, 1}, still.b, still.snr, {1, 2}, SgdSaiSettings{}, 0.1);
  EXPECT_GT(late.snr, 0);
  EXPECT_EQ(late.b, (Vec{1, 2}));
}

TEST(Twins, SoapWithoutBasesIsAdamOneStepLate) {
  Draws draws(6);
  SoapSettings settings;
  settings.largest_side = 1;
  AdamWSettings adam{.family = Family::hf, .beta1 = 0.95, .beta2 = 0.95, .weight_decay = 0.01};
  Matrix w = random_matrix(3, 4, draws);
  Vec w_adam = w.values;
  SoapState state;
  AdamState exact = adam_start(adam, 12);
  for (int t = 0; t <= 12; ++t) {
    const Matrix g = random_matrix(3, 4, draws);
    const SoapStep step = soap(w, state, g, settings, 0.01);
    if (t == 0) {
      EXPECT_EQ(step.weights.values, w.values);
    } else {
      const AdamWStep want = adamw(w_adam, exact, g.values, adam, 0.01, t);
      w_adam = want.weights;
      exact = want.state;
    }
    w = step.weights;
    state = step.state;
  }
  expect_close(w.values, w_adam, 1e-14);
}

TEST(Twins, SoapKeepsOrthonormalBasesInOrder) {
  Draws draws(7);
  SoapSettings settings;
  settings.period = 3;
  Matrix w = zeros(5, 3);
  SoapState state;
  const SoapStep zero = soap(w, state, zeros(5, 3), settings, 0.01);
  EXPECT_FALSE(zero.state.started);
  for (int t = 0; t <= 9; ++t) {
    Matrix g = random_matrix(5, 3, draws);
    for (std::size_t j = 0; j < 3; ++j) {
      g.at(4, j) *= 10;  // the largest direction, which the eigenvectors put first
    }
    const SoapStep step = soap(w, state, g, settings, 0.01);
    w = step.weights;
    state = step.state;
    EXPECT_LT(orthonormality_error({Side::right, transposed(state.left.basis)}), 1e-12);
    EXPECT_LT(orthonormality_error({Side::right, transposed(state.right.basis)}), 1e-12);
    EXPECT_EQ(step.order_margin<kFar, t> 0 && t % 3 == 0);
  }
  EXPECT_GT(std::abs(state.left.basis.at(4, 0)), 0.9);
  EXPECT_GT(norm(std::span(state.v.values).subspan(0, 3)), norm(row(state.v, 4)));
}

// A permuted basis with v permuted alike gives the same update before a refresh, and the refresh
// brings both to the same order.
TEST(Twins, SoapPermutesItsSecondMomentWithTheBasis) {
  Draws draws(8);
  SoapSettings settings;
  settings.period = 1;
  Matrix w = random_matrix(4, 3, draws);
  SoapState state = soap(w, {}, random_matrix(4, 3, draws), settings, 0.01).state;
  state.v.values = draws.normals(12);
  for (double& value : state.v.values) {
    value *= value;
  }
  SoapState shuffled = state;
  const std::vector<std::size_t> order{2, 0, 3, 1};
  shuffled.left.basis = detail::columns_in_order(state.left.basis, order);
  shuffled.v = transposed(detail::columns_in_order(transposed(state.v), order));
  const std::vector<std::size_t> right_order{1, 2, 0};
  shuffled.right.basis = detail::columns_in_order(state.right.basis, right_order);
  shuffled.v = detail::columns_in_order(shuffled.v, right_order);
  const Matrix g = random_matrix(4, 3, draws);
  const SoapStep one = soap(w, state, g, settings, 0.01),
                 two = soap(w, shuffled, g, settings, 0.01);
  expect_close(two.weights.values, one.weights.values, 1e-13);
  expect_close(two.state.v.values, one.state.v.values, 1e-13);
  expect_close(two.state.right.basis.values, one.state.right.basis.values, 1e-10);
  expect_close(two.state.left.basis.values, one.state.left.basis.values, 1e-10);
}

}  // namespace
}  // namespace strata::tests::twins
