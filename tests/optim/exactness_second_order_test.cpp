// SGD-SaI, natural GaLore, SOAP, M-FAC and GGT beside their float64 twins.
#include "tests/optim/teacher.h"
#include "tests/support/twins/galore.h"
#include "tests/support/twins/mfac.h"
#include "tests/support/twins/natural_galore.h"
#include "tests/support/twins/sgd_sai.h"
#include "tests/support/twins/soap.h"

namespace strata::tests {
namespace {

using twins::Codec;
using twins::Matrix;
using twins::Vec;

double relative_error(const Vec& got, const Vec& want) {
  double off = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    off += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return off == 0 ? 0 : std::sqrt(off / size);
}

// The first gradient is zero: the gain is that of the second.
void sgd_sai(int steps) {
  for (const Shape& shape : odd_shapes()) {
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel({.method = "sgd_sai", .shape = shape}, start_values(numel));
    Gradients gradients(numel);
    Vec weights = kernel.weights(), b(numel);
    double gain = 0;
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> drawn = gradients.next();
      const std::vector<float> g =
          t == 1 ? std::vector<float>(numel) : std::vector<float>(drawn.begin(), drawn.end());
      kernel.step(g, rate_of(t), clip_of(t));
      const twins::SgdSaiStep step =
          twins::sgd_sai(weights, b, gain, clipped(g, t), {}, rate_of(t));
      weights = step.weights, b = step.b, gain = step.snr;
      ASSERT_NEAR(kernel.values("gain")[0], gain, 1e-6 * gain) << to_string(shape) << t;
    }
    EXPECT_LE(relative_error(kernel.weights(), weights), 5e-6) << to_string(shape);
  }
}
TEST(ExactnessOfSecondOrder, SgdSai) {
  sgd_sai(100);
}
TEST(ExactnessOfSecondOrder, SlowSgdSai) {
  sgd_sai(1000);
}

TEST(ExactnessOfSecondOrder, SgdSaiSurvivesTensorsOfOneElementAndConstantGradients) {
  OneTensor one({.method = "sgd_sai", .shape = {1}}, std::vector<float>{1.f});
  one.step(std::vector<float>{3.f}, 0.1);
  EXPECT_EQ(one.values("gain")[0], 1.0);
  OneTensor constant({.method = "sgd_sai", .shape = {100}}, std::vector<float>(100, 1.f));
  constant.step(std::vector<float>(100, 0.5f), 0.1);
  EXPECT_EQ(constant.values("gain")[0], 100.0);  // 10 sqrt(100): no deviation at all
}

/// The window of projected gradients, oldest first, as the kernel keeps it after step t.
Matrix history_of(const OneTensor& kernel,
                  std::int64_t t,
                  std::int64_t period,
                  std::int64_t most,
                  std::size_t numel) {
  const Vec all = kernel.values("history");
  const std::int64_t since = (t - 1) % period, kept = std::min(since + 1, most);
  Matrix out = twins::zeros(static_cast<std::size_t>(kept), numel);
  for (std::int64_t k = 0; k < kept; ++k) {
    const auto slot = static_cast<std::size_t>((since - (kept - 1) + k) % most);
    for (std::size_t i = 0; i < numel; ++i) {
      out.at(static_cast<std::size_t>(k), i) = all[slot * numel + i];
    }
  }
  return out;
}

// A sum of outer products and a small damping turn the last digits of f32 into the first of the
// natural gradient, so the twin is given the projected gradients that the kernel kept; that these
// are the projections is compared apart.
void natural_galore(int steps) {
  constexpr std::size_t kRank = 6;
  constexpr std::int64_t kPeriod = 7, kWindow = 5;
  Judge judge;
  for (const Shape& shape : std::vector<Shape>{{64, 48}, {90, 41}}) {
    const TensorCase what{.method = "natural_galore",
                          .settings = {{"rank", "6"},
                                       {"refresh_every", "7"},
                                       {"fisher_window", "5"},
                                       {"states", "f32"},
                                       {"basis_dtype", "f32"}},
                          .shape = shape};
    const auto rows = static_cast<std::size_t>(shape[0]),
               columns = static_cast<std::size_t>(shape[1]);
    OneTensor kernel(what, start_values(rows * columns));
    Gradients gradients(rows * columns);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      const Vec before = kernel.weights();
      const twins::AdamState state{moment_of(kernel, "m", Codec::f32, twins::Sign::both),
                                   moment_of(kernel, "v", Codec::f32, twins::Sign::positive)};
      kernel.step(g, rate_of(t), clip_of(t));
      const twins::Basis basis{twins::Side::right, {kRank, columns, kernel.values("basis")}};
      const Matrix gradient{rows, columns, clipped(g, t)};
      const Matrix history = history_of(kernel, t, kPeriod, kWindow, rows * kRank);
      const Vec newest(history.values.end() - static_cast<std::ptrdiff_t>(rows * kRank),
                       history.values.end());
      judge.compare_values(
          newest, twins::project(gradient, basis).values, twins::project_terms(gradient, basis));
      const Vec natural = twins::natural_gradient(history, 1e-3);
      twins::GaLoreSettings s;
      const twins::AdamDirection adam = twins::adam_direction(state, natural, s.adam, t);
      const Matrix back = twins::project_back({rows, kRank, adam.direction}, basis);
      Vec want = before;
      for (std::size_t i = 0; i < want.size(); ++i) {
        want[i] -= rate_of(t) * s.scale * back.values[i];
      }
      judge.compare_weights(kernel.weights(), want, before, rate_of(t));
      judge.compare_values(kernel.values("m"), adam.m, terms_of(decode(state.m), natural, 0.1));
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << to_string(shape) << " step " << t;
    }
  }
  judge.report("natural_galore");
}
TEST(ExactnessOfSecondOrder, NaturalGaLore) {
  natural_galore(20);
}
TEST(ExactnessOfSecondOrder, SlowNaturalGaLore) {
  natural_galore(1000);
}

Matrix square_of(const OneTensor& kernel, const std::string& field, std::size_t n) {
  return {n, n, kernel.values(field)};
}

/// The kernel keeps vectors as rows, the twin as columns.
twins::SoapState soap_state(const OneTensor& kernel, std::size_t rows, std::size_t columns) {
  twins::SoapState state;
  const double started = kernel.values("started")[0];
  state.started = started > 0;
  state.t = state.started ? kernel.steps() - static_cast<std::int64_t>(started) : 0;
  if (state.started) {
    state.left = {square_of(kernel, "left.covariance", rows),
                  transposed(square_of(kernel, "left.basis", rows))};
    state.right = {square_of(kernel, "right.covariance", columns),
                   transposed(square_of(kernel, "right.basis", columns))};
  }
  state.m = {rows, columns, kernel.values("m")};
  state.v = {rows, columns, kernel.values("v")};
  return state;
}

double orthonormality_error(const Matrix& vectors) {
  const Matrix products = product(transposed(vectors), vectors);
  double worst = 0;
  for (std::size_t i = 0; i < products.rows; ++i) {
    for (std::size_t j = 0; j < products.columns; ++j) {
      worst = std::max(worst, std::abs(products.at(i, j) - (i == j ? 1.0 : 0.0)));
    }
  }
  return worst;
}

void soap(int steps) {
  Judge judge;
  for (const Shape& shape : std::vector<Shape>{{17, 23}, {24, 16}}) {
    const auto rows = static_cast<std::size_t>(shape[0]),
               columns = static_cast<std::size_t>(shape[1]);
    OneTensor kernel({.method = "soap", .shape = shape}, start_values(rows * columns));
    Gradients gradients(rows * columns);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      const Vec before = kernel.weights();
      const twins::SoapState old = soap_state(kernel, rows, columns);
      kernel.step(g, rate_of(t), clip_of(t));
      const Matrix gradient{rows, columns, clipped(g, t)};
      const twins::SoapStep want =
          twins::soap({rows, columns, before}, old, gradient, {}, rate_of(t));
      judge.compare_weights(kernel.weights(), want.weights.values, before, rate_of(t));
      const twins::SoapState now = soap_state(kernel, rows, columns);
      for (const auto& [got, twin] :
           {std::pair{&now.left, &want.state.left}, std::pair{&now.right, &want.state.right}}) {
        Vec terms(got->covariance.values.size(), 0);
        for (std::size_t i = 0; i < got->covariance.rows; ++i) {
          for (std::size_t j = 0; j < got->covariance.rows; ++j) {
            terms[i * got->covariance.rows + j] =
                std::sqrt(twin->covariance.at(i, i) * twin->covariance.at(j, j));
          }
        }
        judge.compare_values(got->covariance.values, twin->covariance.values, terms);
        EXPECT_LE(orthonormality_error(got->basis), 1e-5) << t;
      }
      // Moments in the basis of the gradient are what both mean, however the basis is turned.
      const Matrix m = twins::detail::turned_back(now.m, now.left.basis, now.right.basis);
      const Matrix m_twin =
          twins::detail::turned_back(want.state.m, want.state.left.basis, want.state.right.basis);
      EXPECT_LE(relative_error(m.values, m_twin.values), 1e-5) << t;
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << to_string(shape) << " step " << t;
      if (::testing::Test::HasFailure()) {
        return;
      }
    }
  }
  judge.report("soap");
}
TEST(ExactnessOfSecondOrder, Soap) {
  soap(25);
}
TEST(ExactnessOfSecondOrder, SlowSoap) {
  soap(1000);
}

// Without turns of the basis both agree on every vector and on the order of v.
TEST(ExactnessOfSecondOrder, SoapStartsAtTheEigenvectors) {
  OneTensor kernel({.method = "soap", .shape = {9, 6}}, start_values(54));
  Gradients gradients(54);
  const std::span<const float> g = gradients.next();
  const Vec before = kernel.weights();
  kernel.step(g, 1e-2);
  EXPECT_EQ(kernel.weights(), before);
  const twins::SoapState state = soap_state(kernel, 9, 6);
  const Matrix seen =
      product(transposed(state.right.basis), product(state.right.covariance, state.right.basis));
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      if (i != j) {
        EXPECT_NEAR(seen.at(i, j), 0, 1e-5 * seen.at(0, 0));
      } else if (i > 0) {
        EXPECT_GE(seen.at(i - 1, i - 1), seen.at(i, i) - 1e-6 * seen.at(0, 0));
      }
    }
  }
}

/// The kernel's window as dense rows, all of them, zero where not filled.
Matrix window_of(const OneTensor& kernel, std::size_t rows, double density) {
  const Vec indices = kernel.values("window.indices"), values = kernel.values("window.values");
  Matrix out = twins::zeros(rows, kernel.size());
  std::size_t at = 0;
  for (std::size_t start = 0; start < kernel.size(); start += 4096) {
    const std::size_t kept =
        twins::kept_of(std::min<std::size_t>(4096, kernel.size() - start), density);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t k = 0; k < kept; ++k, ++at) {
        out.at(row, start + static_cast<std::size_t>(indices[at])) += values[at];
      }
    }
  }
  return out;
}

void window_methods(const char* method, int steps) {
  constexpr std::size_t kRows = 6;
  constexpr double kDensity = 0.05;
  const bool mfac = std::string(method) == "mfac_sparse";
  Judge judge;
  for (const Shape& shape : std::vector<Shape>{{37, 61}, {70, 61}}) {
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel({.method = method,
                      .settings = {{"window", "6"},
                                   {"density", "0.05"},
                                   {"error", "f32"},
                                   {"weight_decay", "0.1"}},
                      .shape = shape},
                     start_values(numel));
    Gradients gradients(numel);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      const Vec before = kernel.weights(), waiting = kernel.values("error");
      kernel.step(g, rate_of(t), clip_of(t));
      const Vec gradient = clipped(g, t);
      const Matrix window = window_of(kernel, kRows, kDensity);
      const auto newest = static_cast<std::size_t>((t - 1) % 6);
      const twins::Sparsified intake = twins::sparsify(waiting, gradient, 4096, kDensity);
      Vec terms(numel);
      for (std::size_t i = 0; i < numel; ++i) {
        terms[i] = std::max(std::abs(waiting[i]), std::abs(gradient[i]));
      }
      judge.compare_values(kernel.values("error"), intake.error, terms);
      Vec direction;
      if (mfac) {
        direction = twins::mfac_direction(window, newest, 1e-3);
      } else {
        const std::size_t filled = std::min<std::size_t>(static_cast<std::size_t>(t), kRows);
        const Matrix rows{filled,
                          numel,
                          {window.values.begin(),
                           window.values.begin() + static_cast<std::ptrdiff_t>(filled * numel)}};
        Vec age(filled);
        for (std::size_t i = 0; i < filled; ++i) {
          age[i] = static_cast<double>((newest + kRows - i) % kRows);
        }
        direction = twins::ggt_direction(rows, age, gradient, 0.999, 1e-2);
      }
      double largest = 1;
      for (const double d : direction) {
        largest = std::max(largest, std::abs(d));
      }
      judge.compare_weights(kernel.weights(),
                            twins::moved_along(before, direction, rate_of(t), 0.1),
                            before,
                            rate_of(t) * largest);
      ASSERT_FALSE(::testing::Test::HasFatalFailure())
          << method << " " << to_string(shape) << " step " << t;
    }
  }
  judge.report(method);
}
TEST(ExactnessOfSecondOrder, MfacAndGgt) {
  window_methods("mfac_sparse", 20);
  window_methods("ggt_lowrank", 20);
}
TEST(ExactnessOfSecondOrder, SlowMfacAndGgt) {
  window_methods("mfac_sparse", 1000);
  window_methods("ggt_lowrank", 1000);
}

}  // namespace
}  // namespace strata::tests
