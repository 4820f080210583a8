#include <gtest/gtest.h>

#include "tests/support/twins/apollo.h"
#include "tests/support/twins/draws.h"
#include "tests/support/twins/frugal.h"
#include "tests/support/twins/microadam.h"
#include "tests/support/twins/muon.h"

namespace strata::tests::twins {
namespace {

/// A matrix of chosen singular values.
Matrix with_singular_values(std::size_t rows, std::size_t columns, const Vec& s, Draws& draws) {
  const Svd parts = svd(random_matrix(rows, columns, draws));
  Matrix scaled = parts.u;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < s.size(); ++j) {
      scaled.at(i, j) *= s[j];
    }
  }
  return product(scaled, transposed(parts.v));
}

TEST(Twins, ProjectionKeepsTheShortSideSmall) {
  Draws draws(1);
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{7, 4}, {4, 7}}) {
    const Matrix g = random_matrix(rows, columns, draws);
    const Basis basis = top_basis(g, 2);
    EXPECT_EQ(basis.rows.rows, 2u);
    EXPECT_EQ(basis.rows.columns, 4u);
    EXPECT_LT(orthonormality_error(basis), 1e-13);
    const Matrix r = project(g, basis);
    EXPECT_EQ(r.rows, 7u);
    EXPECT_EQ(r.columns, 2u);
    EXPECT_LT(norm(r.values), norm(g.values));
    const SubspaceEnergy energy = subspace_energy(g, basis);
    EXPECT_NEAR(energy.captured, energy.best, 1e-12);
    EXPECT_NEAR(energy.total, std::pow(norm(g.values), 2), 1e-12);
    Basis other = basis;
    std::swap_ranges(
        other.rows.values.begin(), other.rows.values.begin() + 4, other.rows.values.begin() + 4);
    EXPECT_LT(projector_distance(basis, other), 1e-14);
    EXPECT_GT(projector_distance(basis, top_basis(random_matrix(rows, columns, draws), 2)), 0.1);
  }
}

TEST(Twins, BasisOfARankOneGradientRebuildsIt) {
  Draws draws(2);
  const Matrix g = product(random_matrix(6, 1, draws), random_matrix(1, 9, draws));
  const Basis basis = top_basis(g, 1);
  const Matrix back = project_back(project(g, basis), basis);
  for (std::size_t i = 0; i < g.values.size(); ++i) {
    EXPECT_NEAR(back.values[i], g.values[i], 1e-13);
  }
}

TEST(Twins, NewtonSchulzNormIsThatOfItsRank) {
  Draws draws(3);
  const Vec s{0.9, 0.3, 0.1, 0.05, 0.02};
  const double length = norm(newton_schulz(with_singular_values(9, 5, s, draws)).values);
  EXPECT_GE(length, 0.68 * std::sqrt(5.0));
  EXPECT_LE(length, 1.14 * std::sqrt(5.0));
}

TEST(Twins, FullRankGaLoreIsAdamInTheTurnedBasis) {
  Draws draws(4);
  GaLoreSettings settings;
  settings.scale = 1;
  settings.weight_decay = 0.1;
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{6, 4}, {4, 6}}) {
    const Matrix w = random_matrix(rows, columns, draws), g = random_matrix(rows, columns, draws);
    const Basis basis = top_basis(g, 4);
    const GaLoreStep step = galore(w, adam_start(settings.adam, 24), g, basis, settings, 0.1, 1);
    AdamWSettings adam = settings.adam;
    adam.weight_decay = 0.1;
    const AdamWStep turned = adamw(
        project(w, basis).values, adam_start(adam, 24), project(g, basis).values, adam, 0.1, 1);
    const Matrix want = project_back({6, 4, turned.weights}, basis);
    for (std::size_t i = 0; i < 24; ++i) {
      EXPECT_NEAR(step.weights.values[i], want.values[i], 1e-13);
    }
  }
}

TEST(Twins, GaLore8bitKeepsItsCodesOverTheLongSide) {
  Draws draws(5);
  const GaLoreSettings settings = galore8bit_settings();
  const Matrix w = random_matrix(5, 90, draws), g = random_matrix(5, 90, draws);
  const Basis basis = top_basis(g, 3);
  const GaLoreStep step = galore(w, adam_start(settings.adam, 270), g, basis, settings, 0.01, 1);
  EXPECT_EQ(step.state.m.codes.size(), 270u);
  EXPECT_EQ(step.state.m.scale.size(), 2u);
  EXPECT_EQ(step.adam.m_stored.term_margin.size(), 270u);
  EXPECT_EQ(step.projected.rows, 90u);
}

TEST(Twins, FiraOfFullRankIsGaLore) {
  Draws draws(6);
  const Matrix w = random_matrix(6, 4, draws), g = random_matrix(6, 4, draws);
  const Basis basis = top_basis(g, 4);
  FiraSettings fira_settings;
  fira_settings.scale = 1;
  GaLoreSettings galore_settings;
  galore_settings.scale = 1;
  const AdamState zero = adam_start(fira_settings.adam, 24);
  for (const Residual residual : {Residual::exact, Residual::compat}) {
    fira_settings.residual = residual;
    const FiraStep one = fira(w, zero, 0, g, basis, fira_settings, 0.1, 1);
    const GaLoreStep two = galore(w, zero, g, basis, galore_settings, 0.1, 1);
    for (std::size_t i = 0; i < 24; ++i) {
      EXPECT_NEAR(one.weights.values[i], two.weights.values[i], 1e-12);
    }
  }
}

TEST(Twins, FiraResidualLeavesTheSubspaceWhereExact) {
  Draws draws(7);
  const Matrix w = random_matrix(4, 6, draws), g = random_matrix(4, 6, draws);
  const Basis basis = top_basis(g, 2);
  FiraSettings settings;
  const FiraStep exact = fira(w, adam_start(settings.adam, 12), 0, g, basis, settings, 0.1, 1);
  EXPECT_LT(norm(project(exact.residual, basis).values), 1e-13);
  settings.residual = Residual::compat;
  const FiraStep compat = fira(w, adam_start(settings.adam, 12), 0, g, basis, settings, 0.1, 1);
  const double inside = norm(project(g, basis).values);
  EXPECT_NEAR(norm(project(compat.residual, basis).values), 0.75 * inside, 1e-12);
}

TEST(Twins, LimiterMeetsItsTrace) {
  const Limited one = limit_growth(1, 0), two = limit_growth(10, one.norm),
                three = limit_growth(10, two.norm);
  EXPECT_EQ(one.norm, 1);
  EXPECT_NEAR(two.norm, 1.01, 2e-8);
  EXPECT_NEAR(three.norm, 1.0201, 4e-8);
  EXPECT_NEAR(10 * three.factor, three.norm, 1e-15);
  EXPECT_EQ(limit_growth(5, 1e-12).norm, 5);  // no step before
  EXPECT_EQ(limit_growth(0.5, 1).factor, 1);
}

TEST(Twins, ApolloMovesEveryChannelByTheKnownLengthInItsFirstStep) {
  Draws draws(8);
  ApolloSettings settings;
  settings.adam.eps = 0;
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{6, 4}, {4, 6}}) {
    const Matrix g = random_matrix(rows, columns, draws), w = zeros(rows, columns);
    const Basis basis{short_side(rows, columns), random_matrix(3, 4, draws)};
    const Matrix r = project(g, basis);
    const ApolloStep step = apollo(w, adam_start(settings.adam, 18), 0, g, basis, settings, 0.1, 1);
    for (std::size_t i = 0; i < 24; ++i) {
      const std::size_t j = rows > columns ? i / columns : i % columns;
      const double length = norm(std::span(r.values).subspan(3 * j, 3));
      const double want = -0.1 * std::sqrt(3.0) * g.values[i] / length;
      EXPECT_NEAR(step.weights.values[i], want, 1e-7 * std::abs(want));
    }
  }
}

TEST(Twins, ApolloWithTheWholeSpaceHasAdamsRowFactors) {
  Draws draws(9);
  const Matrix g = random_matrix(6, 4, draws);
  Basis identity{Side::right, zeros(4, 4)};
  for (std::size_t i = 0; i < 4; ++i) {
    identity.rows.at(i, i) = 1;
  }
  const ApolloSettings settings;
  const AdamState state = adam_start(settings.adam, 24);
  const ApolloStep step = apollo(zeros(6, 4), state, 0, g, identity, settings, 0.1, 1);
  const AdamDirection adam = adam_direction(state, g.values, settings.adam, 1);
  for (std::size_t j = 0; j < 6; ++j) {
    const double want = norm(std::span(adam.ratio).subspan(4 * j, 4)) /
                        (norm(std::span(g.values).subspan(4 * j, 4)) + 1e-8);
    EXPECT_NEAR(step.factor[j], want, 1e-12);
  }
}

TEST(Twins, ApolloScalesByTheRootBeforeOrAfterItsLimiter) {
  Draws draws(10);
  const Matrix g = random_matrix(6, 4, draws), w = zeros(6, 4);
  const Basis basis{Side::right, random_matrix(1, 4, draws)};
  ApolloSettings settings = apollo_mini_settings();
  const AdamState state = adam_start(settings.adam, 6);
  const ApolloStep back = apollo(w, state, 0, g, basis, settings, 0.1, 1);
  settings.scale_at = ApolloSettings::ScaleAt::front;
  const ApolloStep front = apollo(w, state, 0, g, basis, settings, 0.1, 1);
  EXPECT_NEAR(front.limiter / back.limiter, std::sqrt(128.0), 1e-12);
  EXPECT_NEAR(front.weights.values[0], back.weights.values[0], 1e-13);
  EXPECT_EQ(front.factor, Vec(6, front.factor[0]));
  const ApolloStep held = apollo(w, state, front.limiter / 2, g, basis, settings, 0.1, 1);
  EXPECT_NEAR(held.limiter, 1.01 * front.limiter / 2, 1e-6);
  settings.growth = ApolloSettings::Growth::free;
  const ApolloStep free = apollo(w, state, front.limiter / 2, g, basis, settings, 0.1, 1);
  EXPECT_NEAR(free.weights.values[0], front.weights.values[0], 1e-13);
}

TEST(Twins, FrugalOfEveryColumnIsAdamWAndOfNoneIsSigns) {
  Draws draws(11);
  const Vec w = draws.normals(12), g = draws.normals(12);
  FrugalSettings settings;
  settings.weight_decay = 0.1;
  AdamWSettings adam;
  adam.weight_decay = 0.1;
  const std::vector<std::size_t> columns{0, 1, 2, 3};
  const std::vector<std::size_t> all = elements_of_columns(3, 4, columns);
  const FrugalStep full = frugal(w, frugal_start(settings, 12), g, all, settings, 0.1);
  const AdamWStep want = adamw(w, adam_start(adam, 12), g, adam, 0.1, 1);
  const FrugalStep none = frugal(w, frugal_start(settings, 0), g, {}, settings, 0.1);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_NEAR(full.weights[i], want.weights[i], 1e-15);
    EXPECT_NEAR(none.weights[i], 0.99 * w[i] - 0.1 * sign_of(g[i]), 1e-15);
  }
}

TEST(Twins, FrugalMovesInactiveColumnsByTheLearningRate) {
  Draws draws(12);
  FrugalSettings settings;
  settings.projectable_scale = 0.5;
  settings.rest_scale = 0.1;
  const std::vector<std::size_t> columns{2};
  const std::vector<std::size_t> active = elements_of_columns(3, 4, columns);
  EXPECT_EQ(active, (std::vector<std::size_t>{2, 6, 10}));
  EXPECT_EQ(elements_of_rows(4, columns), (std::vector<std::size_t>{8, 9, 10, 11}));
  Vec w(12);
  FrugalState state = frugal_start(settings, 3);
  for (int t = 1; t <= 2; ++t) {
    const FrugalStep step = frugal(w, state, draws.normals(12), active, settings, 0.1);
    for (std::size_t i = 0; i < 12 && t == 2; ++i) {
      const bool by_sign = std::abs(std::abs(step.weights[i] - w[i]) - 0.1 * 0.5 * 0.1) < 1e-12;
      EXPECT_EQ(by_sign, i % 4 != 2) << i;
    }
    w = step.weights;
    state = step.state;
  }
  EXPECT_EQ(state.t, 2);
  settings.rest = FrugalSettings::Rest::none;
  const FrugalStep some = frugal(w, state, draws.normals(12), active, settings, 0.1);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(some.weights[i] != w[i], i % 4 == 2);
  }
}

TEST(Twins, FrugalOfABasisLeavesTheRestOutsideOfIt) {
  Draws draws(13);
  const Matrix w = random_matrix(6, 4, draws), g = random_matrix(6, 4, draws);
  const Basis basis = top_basis(g, 2);
  FrugalSettings settings;
  settings.rest = FrugalSettings::Rest::sgd;
  const FrugalStep step = frugal(w, frugal_start(settings, 12), g, basis, settings, 0.1);
  EXPECT_LT(norm(project({6, 4, step.rest}, basis).values), 1e-13);
  Matrix moved = w;
  for (std::size_t i = 0; i < 24; ++i) {
    moved.values[i] = (w.values[i] - step.weights[i]) / 0.1 - step.rest[i];
  }
  const Matrix inside = project(moved, basis);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_NEAR(inside.values[i], step.adam.direction[i], 1e-12);
  }
}

MicroAdamSettings small_microadam() {
  MicroAdamSettings out;
  out.density = 0.25;
  out.block = 16;
  out.quant_block = 8;
  return out;
}

TEST(Twins, MicroAdamStepGrowsAsTheSpecComputes) {
  MicroAdamSettings settings;
  settings.density = 1;
  settings.eps = 0;
  const std::vector<std::int16_t> indices(10, 0);
  const Vec values(10, 0.5);
  const double rows[][2] = {
      {1, 1}, {5, 1}, {10, 1}, {11, 0.995}, {100, 2.014}, {1000, 5.191}, {10000, 6.528}};
  for (const auto& row : rows) {
    const Vec moved =
        microadam_update({0}, indices, values, settings, 1, static_cast<std::int64_t>(row[0]));
    EXPECT_NEAR(-moved[0], row[1], 5.1e-4) << row[0];
  }
  settings.norm = MicroAdamSettings::Norm::by_window;
  EXPECT_NEAR(microadam_update({0}, indices, values, settings, 1, 1000)[0], -1, 1e-12);
}

TEST(Twins, MicroAdamKeepsAsManyAsTheSpecCounts) {
  const MicroAdamSettings settings;
  EXPECT_EQ(kept_of(4096, 0.01), 41u);
  EXPECT_EQ(row_of(settings, 4096 * 3 + 50), 3u * 41 + 1);
  const double bytes = 0.5 + 10 * 41 * 4 / 4096.0;
  EXPECT_NEAR(bytes, 0.9004, 5e-5);
}

TEST(Twins, MicroAdamOfFullDensityIsAdamWWithinItsWindow) {
  Draws draws(14);
  MicroAdamSettings settings = small_microadam();
  settings.density = 1;
  settings.values = MicroAdamSettings::Stored::exact;
  settings.weight_decay = 0.1;
  AdamWSettings adam;
  adam.weight_decay = 0.1;
  const std::size_t n = 37;
  MicroAdamState state = microadam_start(settings, n);
  AdamState exact = adam_start(adam, n);
  Vec w(n, 1.0), w_exact(n, 1.0);
  for (int t = 1; t <= 10; ++t) {
    const Vec g = draws.normals(n);
    const MicroAdamStep step = microadam(w, state, g, settings, 0.1, t);
    const AdamWStep want = adamw(w_exact, exact, g, adam, 0.1, t);
    w = step.weights;
    state = step.state;
    w_exact = want.weights;
    exact = want.state;
    EXPECT_EQ(decode_error(state, n, settings), Vec(n));
  }
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_NEAR(w[i], w_exact[i], 1e-12);
  }
}

TEST(Twins, MicroAdamConservesTheGradient) {
  Draws draws(15);
  for (const std::size_t n : {5u, 16u, 37u, 64u}) {
    MicroAdamSettings settings = small_microadam();
    settings.values = MicroAdamSettings::Stored::exact;
    MicroAdamState state = microadam_start(settings, n);
    Vec w(n);
    for (int t = 1; t <= 25; ++t) {
      const Vec g = draws.normals(n), before = decode_error(state, n, settings);
      const MicroAdamStep step = microadam(w, state, g, settings, 0.1, t);
      Vec rest = step.intake.error_exact;
      for (std::size_t j = 0; j < step.intake.values.size(); ++j) {
        rest[step.intake.chosen.elements[j]] += step.intake.values[j];
      }
      const Vec after = decode_error(step.state, n, settings);
      for (std::size_t i = 0; i < n; ++i) {
        EXPECT_EQ(rest[i], g[i] + before[i]);
        const double* range = &step.state.error_range[2 * (i / 8)];
        EXPECT_LE(std::abs(after[i] - step.intake.error_exact[i]),
                  (range[1] - range[0]) / 30 * (1 + 1e-12));
      }
      w = step.weights;
      state = step.state;
    }
  }
}

TEST(Twins, MicroAdamWithExactErrorReachesATinyCoordinate) {
  MicroAdamSettings settings = small_microadam();
  settings.density = 0.1;
  settings.error = MicroAdamSettings::Stored::exact;
  Vec g(10, 1.0);
  g[9] = 0.01;
  MicroAdamState state = microadam_start(settings, 10);
  int reached = 0;
  for (int t = 1; t <= 1000 && reached == 0; ++t) {
    const MicroAdamStep step = microadam(Vec(10), state, g, settings, 0.1, t);
    state = step.state;
    reached = step.intake.chosen.elements[0] == 9 ? t : 0;
  }
  EXPECT_GT(reached, 100);
  EXPECT_LE(reached, 1000);
}

TEST(Twins, LargestMagnitudesWithTheLowerIndexFirst) {
  const TopK chosen = top_k({1, -2, 2, 2, 0, 5}, 4, 0.5);
  EXPECT_EQ(chosen.indices, (std::vector<std::int16_t>{1, 2, 1}));
  EXPECT_EQ(chosen.elements, (std::vector<std::size_t>{1, 2, 5}));
  EXPECT_EQ(chosen.margin[3], 0);
  EXPECT_EQ(chosen.margin[0], 1 / f32_ulp(2));
  EXPECT_EQ(elements_of(chosen.indices, 6, 4, 0.5), chosen.elements);
}

TEST(Twins, ErrorCodesOfConstantAndOfUnequalBlocks) {
  const ErrorBlock same = quantise_error(Vec(4, 0.75));
  EXPECT_EQ(same.codes, Bytes(4));
  EXPECT_EQ(dequantise_error(0, same.low.value, same.high.value), 0.75);
  const ErrorBlock mixed = quantise_error(Vec{-1, 0.5, 2.001});
  EXPECT_EQ(mixed.low.value, -1);
  EXPECT_EQ(mixed.high.value, 2.015625);
  EXPECT_EQ(mixed.codes, (Bytes{0, 7, 15}));
  const ErrorBlock given = quantise_error(Vec{-1, 0.5, 2.001}, std::pair{-1.0, 14.0});
  EXPECT_EQ(given.codes, (Bytes{0, 2, 3}));
  EXPECT_EQ(given.margin[1], 0);
}

}  // namespace
}  // namespace strata::tests::twins
