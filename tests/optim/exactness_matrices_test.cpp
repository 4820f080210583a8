// Methods that see a matrix whole, teacher-forced: the twin takes the kernel's weights, state and
// subspace before every step.
#include <functional>

#include "core/compress/low_rank.h"
#include "tests/optim/teacher.h"
#include "tests/support/twins/apollo.h"
#include "tests/support/twins/galore.h"

namespace strata::tests {
namespace {

using twins::Basis;
using twins::Codec;
using twins::Matrix;
using twins::Sign;
using twins::Vec;

constexpr std::size_t kRank = 6;
constexpr std::int64_t kPeriod = 7;  // steps between refreshes

Matrix matrix_of(const TensorCase& what, const Vec& values) {
  return {static_cast<std::size_t>(what.shape[0]), static_cast<std::size_t>(what.shape[1]), values};
}

/// The kernel keeps moments of a wide matrix as (rank, columns), the twins as (columns, rank).
Vec turned_back(const Vec& values, const Basis& basis) {
  if (basis.side == twins::Side::right) {
    return values;
  }
  return transposed(Matrix{kRank, values.size() / kRank, values}).values;
}

/// The basis that the kernel used in step t: kept, or drawn again from the seed.
Basis basis_of(const OneTensor& kernel, const TensorCase& what, std::int64_t t) {
  const auto side = twins::short_side(static_cast<std::size_t>(what.shape[0]),
                                      static_cast<std::size_t>(what.shape[1]));
  const std::int64_t length = std::min(what.shape[0], what.shape[1]);
  Vec rows;
  if (kernel.field("basis")) {
    rows = kernel.values("basis");
  } else {
    const Tensor drawn = Tensor::zeros(DType::f32, {static_cast<std::int64_t>(kRank), length});
    const RandomKey key{what.seed,
                        RandomUse::subspace,
                        static_cast<std::uint64_t>((t - 1) / kPeriod),
                        static_cast<std::uint64_t>(OneTensor::kId)};
    random_projection(drawn, key, compute_stream());
    rows = OneTensor::wide(drawn);
  }
  return {side, {kRank, static_cast<std::size_t>(length), rows}};
}

/// One step of a method in a subspace, as its twin computes it.
struct Exact {
  Matrix weights;
  twins::AdamDirection adam;
  double limiter = 0;
};
using Twin = std::function<Exact(const Matrix& weights,
                                 const twins::AdamState& state,
                                 double limiter,
                                 const Matrix& g,
                                 const Basis& basis,
                                 double lr,
                                 std::int64_t t)>;

struct Old {
  Vec weights, m, v;
  twins::AdamState state;
  double limiter = 0;
};

Old take(const OneTensor& kernel, Codec codec) {
  Old old{kernel.weights(), {}, {}, {}, 0};
  old.state = {moment_of(kernel, "m", codec, Sign::both),
               moment_of(kernel, "v", codec, Sign::positive)};
  if (kernel.field("limiter")) {
    old.limiter = kernel.values("limiter")[0];
  }
  return old;
}

void turn(twins::Moment& moment, const Basis& basis) {
  if (!moment.values.empty()) {
    moment.values = turned_back(moment.values, basis);
  }
}

/// Moments of the kernel against the twin's; the second one in bf16 with its random bits.
void compare_moments(const OneTensor& kernel,
                     const Old& old,
                     const Exact& twin,
                     const Basis& basis,
                     const Vec& terms,
                     Judge& judge) {
  Old now = take(kernel, old.state.m.codec);
  turn(now.state.m, basis), turn(now.state.v, basis);
  Vec m_terms = terms_of(decode(old.state.m), terms, 0.1);
  judge.compare_moment(now.state.m, twin.adam.m_stored, m_terms);
  Vec v_terms(terms.size());
  for (std::size_t i = 0; i < terms.size(); ++i) {
    v_terms[i] = 1e-3 * 2 * terms[i] * terms[i];
  }
  if (now.state.v.codec != Codec::bf16) {
    return judge.compare_moment(now.state.v, twin.adam.v_stored, v_terms);
  }
  const auto bits =
      rounding_bits(5, RandomUse::state_rounding, kernel.steps(), OneTensor::kId, terms.size());
  const Vec wide(bits.begin(), bits.end()), order = turned_back(wide, basis);
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const double exact = twin.adam.v[i], term = std::max(exact, v_terms[i]);
    const auto want = twins::round_bf16_stochastic(exact, static_cast<std::uint32_t>(order[i]));
    const double margin = want.margin * twins::f32_ulp(exact) / twins::f32_ulp(term);
    judge.compare_bf16(now.state.v.values[i], want.value, margin, term, "second moment");
  }
}

void teach_in_subspace(const TensorCase& method,
                       Codec codec,
                       const std::vector<Shape>& shapes,
                       int steps,
                       const Twin& twin_of) {
  Judge judge;
  for (const Shape& shape : shapes) {
    TensorCase what = method;
    what.shape = shape;
    what.settings.push_back({"rank", std::to_string(kRank)});
    what.settings.push_back({"refresh_every", std::to_string(kPeriod)});
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel(what, start_values(numel));
    Gradients gradients(numel);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      Old old = take(kernel, codec);
      kernel.step(g, rate_of(t), clip_of(t));
      const Basis basis = basis_of(kernel, what, t);
      turn(old.state.m, basis), turn(old.state.v, basis);
      const Matrix gradient = matrix_of(what, clipped(g, t));
      const Exact twin = twin_of(
          matrix_of(what, old.weights), old.state, old.limiter, gradient, basis, rate_of(t), t);
      judge.compare_weights(kernel.weights(), twin.weights.values, old.weights, rate_of(t));
      compare_moments(kernel, old, twin, basis, project_terms(gradient, basis), judge);
      if (kernel.field("limiter")) {
        judge.compare_values(kernel.values("limiter"), {twin.limiter}, {0});
      }
      ASSERT_FALSE(::testing::Test::HasFatalFailure())
          << method.method << " " << to_string(shape) << " step " << t;
    }
  }
  judge.expect_few_flips(codec == Codec::bf16 ? 4.0 / 65536 : 1e-5);
  judge.report(method.method);
}

std::vector<Shape> tall_and_wide() {
  return {{37, 61}, {64, 48}, {7, 300}, {90, 41}};
}

Twin galore_twin(twins::GaLoreSettings s, Codec codec, double weight_decay) {
  s.adam.m_codec = s.adam.v_codec = codec;
  s.weight_decay = weight_decay;
  return [s](const Matrix& w,
             const twins::AdamState& state,
             double,
             const Matrix& g,
             const Basis& basis,
             double lr,
             std::int64_t t) {
    const twins::GaLoreStep step = twins::galore(w, state, g, basis, s, lr, t);
    return Exact{step.weights, step.adam, 0};
  };
}

void galores(int steps) {
  const std::vector<optim::Setting> decay{{"weight_decay", "0.1"}};
  teach_in_subspace(
      {"galore", decay}, Codec::bf16, tall_and_wide(), steps, galore_twin({}, Codec::bf16, 0.1));
  const std::vector<optim::Setting> plain{
      {"weight_decay", "0.1"}, {"states", "f32"}, {"basis_dtype", "f32"}, {"basis", "exact"}};
  teach_in_subspace(
      {"galore", plain}, Codec::f32, tall_and_wide(), steps, galore_twin({}, Codec::f32, 0.1));
}
TEST(ExactnessOfMatrices, GaLore) {
  galores(15);
}
TEST(ExactnessOfMatrices, SlowGaLore) {
  galores(1000);
}

// Codes of a wide matrix run along its columns in the kernel, along the rank in the twin: tall
// ones.
void galore8bit(int steps) {
  teach_in_subspace({"galore8bit", {{"min_coded", "1"}, {"weight_decay", "0.1"}}},
                    Codec::dynamic8,
                    {{64, 48}, {90, 41}, {301, 7}},
                    steps,
                    galore_twin(twins::galore8bit_settings(), Codec::dynamic8, 0.1));
}
TEST(ExactnessOfMatrices, GaLoreIn8Bits) {
  galore8bit(15);
}
TEST(ExactnessOfMatrices, SlowGaLoreIn8Bits) {
  galore8bit(1000);
}

void fira(int steps, twins::Residual residual, const char* name) {
  twins::FiraSettings s;
  s.weight_decay = 0.1;
  s.residual = residual;
  s.adam.m_codec = s.adam.v_codec = Codec::bf16;
  teach_in_subspace({"fira", {{"weight_decay", "0.1"}, {"residual", name}}},
                    Codec::bf16,
                    tall_and_wide(),
                    steps,
                    [s](const Matrix& w,
                        const twins::AdamState& state,
                        double limiter,
                        const Matrix& g,
                        const Basis& basis,
                        double lr,
                        std::int64_t t) {
                      const twins::FiraStep step =
                          twins::fira(w, state, limiter, g, basis, s, lr, t);
                      return Exact{step.weights, step.adam, step.limiter};
                    });
}
TEST(ExactnessOfMatrices, Fira) {
  fira(15, twins::Residual::exact, "exact");
  fira(15, twins::Residual::compat, "compat");
}
TEST(ExactnessOfMatrices, SlowFira) {
  fira(1000, twins::Residual::exact, "exact");
  fira(1000, twins::Residual::compat, "compat");
}

void apollo(const char* method,
            std::vector<optim::Setting> settings,
            twins::ApolloSettings s,
            int steps) {
  s.weight_decay = 0.1;
  settings.push_back({"weight_decay", "0.1"});
  teach_in_subspace({method, settings},
                    Codec::f32,
                    tall_and_wide(),
                    steps,
                    [s](const Matrix& w,
                        const twins::AdamState& state,
                        double limiter,
                        const Matrix& g,
                        const Basis& basis,
                        double lr,
                        std::int64_t t) {
                      const twins::ApolloStep step =
                          twins::apollo(w, state, limiter, g, basis, s, lr, t);
                      return Exact{step.weights, step.adam, step.limiter};
                    });
}
void apollos(int steps) {
  apollo("apollo", {}, {}, steps);
  apollo("apollo_mini", {}, twins::apollo_mini_settings(), steps);
  twins::ApolloSettings front = twins::apollo_mini_settings();
  front.scale_at = twins::ApolloSettings::ScaleAt::front;
  apollo("apollo_mini", {{"scale_front", "true"}}, front, steps);
  twins::ApolloSettings free;
  free.growth = twins::ApolloSettings::Growth::free;
  apollo("apollo", {{"limit_growth", "false"}}, free, steps);
}
TEST(ExactnessOfMatrices, Apollo) {
  apollos(15);
}
TEST(ExactnessOfMatrices, SlowApollo) {
  apollos(1000);
}

/// A gradient of chosen singular values.
Matrix planted(std::size_t rows, std::size_t columns, double ratio) {
  twins::Draws draws(9);
  const twins::Svd parts = twins::svd(twins::random_matrix(rows, columns, draws));
  Matrix scaled = parts.u;
  for (std::size_t j = 0; j < parts.s.size(); ++j) {
    for (std::size_t i = 0; i < rows; ++i) {
      scaled.at(i, j) *= std::pow(ratio, static_cast<double>(j));
    }
  }
  return product(scaled, transposed(parts.v));
}

// Projectors, which no turn or sign of the vectors changes: exact ones where the spectrum has a
// gap, the energy of randomised ones where it falls slowly.
TEST(ExactnessOfMatrices, BasesSpanTheLeadingSingularVectors) {
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{61, 37}, {37, 61}}) {
    for (const bool exact : {true, false}) {
      const Matrix g = planted(rows, columns, exact ? 0.5 : 0.9);
      const TensorCase what{
          .method = "galore",
          .settings = {{"rank", std::to_string(kRank)},
                       {"basis_dtype", "f32"},
                       {"basis", exact ? "exact" : "randomised"}},
          .shape = {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)}};
      OneTensor kernel(what, start_values(rows * columns));
      kernel.step(std::vector<float>(g.values.begin(), g.values.end()), 1e-3);
      const Basis basis = basis_of(kernel, what, 1);
      EXPECT_LE(twins::orthonormality_error(basis), 1e-5);
      const twins::SubspaceEnergy energy = twins::subspace_energy(g, basis);
      EXPECT_GE(energy.captured, (exact ? 1 - 1e-6 : 0.99) * energy.best);
      if (exact) {
        EXPECT_LE(twins::projector_distance(basis, twins::top_basis(g, kRank)), 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace strata::tests
