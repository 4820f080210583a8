// Q-GaLore beside its float64 twin, teacher-forced: refreshes and gaps, the basis in four bits,
// moments in eight, weights in codes with stochastic rounding.
#include "core/compress/low_rank.h"
#include "tests/optim/teacher.h"
#include "tests/support/twins/qgalore.h"

namespace strata::tests {
namespace {

using twins::Basis;
using twins::Codec;
using twins::Matrix;
using twins::Sign;
using twins::Vec;

constexpr std::size_t kRank = 6;
constexpr std::int64_t kGap = 3;
constexpr std::size_t kGroup = 256;
// Of the kernel's field "lazy".
constexpr std::size_t kGapSlot = 0, kLastSlot = 1, kSimilarities = 3, kDirection = 8;

/// Gradients whose strongest direction on the short side stays, or is another one in every step. No
/// row is that direction alone: projected on any other it would be what rounding leaves of it.
class DirectedGradients {
 public:
  DirectedGradients(std::size_t rows, std::size_t columns, bool stays)
      : noise_(rows * columns),
        now_(rows * columns),
        columns_(columns),
        tall_(rows >= columns),
        along_(std::min(rows, columns)),
        stays_(stays) {
    draw();
  }
  std::span<const float> next() {
    if (!stays_) {
      draw();
    }
    const std::span<const float> noise = noise_.next();
    for (std::size_t i = 0; i < now_.size(); ++i) {
      const std::size_t row = i / columns_, column = i % columns_;
      const double across = 1.0 + static_cast<double>((tall_ ? row : column) % 5);
      const double part = along_[tall_ ? column : row] * (1 + 0.5 * draws_.normal());
      now_[i] = static_cast<float>(static_cast<double>(noise[i]) + 0.05 * across * part);
    }
    return now_;
  }

 private:
  void draw() {
    for (double& value : along_) {
      value = draws_.normal();
    }
  }
  Gradients noise_;
  std::vector<float> now_;
  std::size_t columns_;
  bool tall_;
  Vec along_;
  twins::Draws draws_{23};
  bool stays_;
};

/// The basis before it is coded, as the kernel makes it after `done` steps.
Vec fresh_basis(const TensorCase& what, std::span<const float> g, std::int64_t done) {
  const LowRankShape shape{what.shape[0], what.shape[1], static_cast<std::int64_t>(kRank)};
  const Tensor basis = Tensor::zeros(DType::f32, shape.basis());
  const Tensor grad = Tensor::zeros(DType::f32, what.shape);
  std::copy(g.begin(), g.end(), grad.data<float>());
  const Tensor room = Tensor::zeros(DType::u8, {top_subspace_workspace_bytes(shape) + 64});
  const RandomKey key{what.seed,
                      RandomUse::subspace,
                      static_cast<std::uint64_t>(done),
                      static_cast<std::uint64_t>(OneTensor::kId)};
  const std::span<std::byte> bytes(room.bytes(), static_cast<std::size_t>(room.numel()));
  top_subspace(basis, grad, shape, {}, key, bytes, compute_stream());
  return OneTensor::wide(basis);
}

twins::IntQuantised coded(twins::Bytes codes, const Vec& affine) {
  twins::IntQuantised out{std::move(codes), {}, {}, {}, {}};
  for (std::size_t j = 0; j < affine.size(); j += 2) {
    out.scale.push_back(affine[j]);
    out.zero.push_back(static_cast<std::uint8_t>(affine[j + 1]));
  }
  return out;
}

twins::IntQuantised basis_codes(const OneTensor& kernel, std::size_t numel) {
  const twins::Bytes packed = kernel.codes("basis.codes");
  twins::Bytes codes(numel);
  for (std::size_t i = 0; i < numel; ++i) {
    codes[i] = twins::nibble(packed, i);
  }
  return coded(codes, kernel.values("basis.affine"));
}

twins::IntQuantised weight_codes(const OneTensor& kernel) {
  const Tensor codes = kernel.slice().codes;
  const auto* const from = codes.data<std::uint8_t>();
  return coded({from, from + codes.numel()}, OneTensor::wide(kernel.slice().affine));
}

Vec values_of(const twins::IntQuantised& x) {
  return twins::dequantise_int(x.codes, x.scale, x.zero, kGroup);
}

/// `own`: the twin's scales and zero points; `given`: its codes with the kernel's zero points.
void compare_codes(const twins::IntQuantised& got,
                   const twins::IntQuantised& own,
                   const twins::IntQuantised& given,
                   const char* what,
                   Judge& judge) {
  ASSERT_EQ(got.zero.size(), own.zero.size());
  for (std::size_t j = 0; j < own.zero.size(); ++j) {
    const double next = own.zero[j] + (got.zero[j] > own.zero[j] ? 1 : -1);
    judge.compare_choice(got.zero[j], own.zero[j], next, own.zero_margin[j], "zero point");
  }
  judge.compare_values(got.scale, own.scale, Vec(own.scale.size()));
  ASSERT_EQ(got.codes.size(), given.codes.size());
  for (std::size_t i = 0; i < got.codes.size(); ++i) {
    const int code = got.codes[i], twin = given.codes[i];
    judge.compare_choice(code, twin, twin + (code > twin ? 1 : -1), given.margin[i], what);
  }
}

/// One tensor under Q-GaLore and what its twin knows of it between steps.
class Pupil {
 public:
  Pupil(const Shape& shape, Codec codec)
      : what_{.method = "qgalore",
              .settings = {{"rank", std::to_string(kRank)},
                           {"refresh_every", std::to_string(kGap)},
                           {"weight_decay", "0.1"},
                           {"min_coded", codec == Codec::dynamic8 ? "1" : "1000000"}},
              .shape = shape,
              .format = WeightFormat::int8},
        codec_(codec),
        rows_(static_cast<std::size_t>(shape[0])),
        columns_(static_cast<std::size_t>(shape[1])),
        kernel_(what_, start_values(rows_ * columns_)) {
    settings_ = twins::galore8bit_settings();
    settings_.adam.m_codec = settings_.adam.v_codec = codec;
    settings_.weight_decay = 0.1;
    lazy_.gap = kGap;
  }

  void step(std::span<const float> g, double lr, float clip) {
    const twins::IntQuantised weights = weight_codes(kernel_);
    const twins::AdamState state = moments();
    kernel_.step(g, lr, clip);
    follow_refresh(g);
    if (::testing::Test::HasFatalFailure()) {
      return;
    }
    // What codes stand for is an f32, the exact product of a scale and a difference rounded once.
    Vec directions = values_of(codes_of_basis());
    for (double& value : directions) {
      value = static_cast<double>(static_cast<float>(value));
    }
    const Basis basis{side(), {kRank, std::min(rows_, columns_), directions}};
    Matrix gradient{rows_, columns_, Vec(g.size())};
    std::transform(g.begin(), g.end(), gradient.values.begin(), [&](float value) {
      return static_cast<double>(clip) * static_cast<double>(value);
    });
    compare(weights, state, gradient, basis, lr);
  }

  const OneTensor& kernel() const { return kernel_; }
  std::int64_t gap() const { return lazy_.gap; }
  std::int64_t refreshes() const { return refreshes_; }
  Judge judge;

 private:
  twins::Side side() const { return twins::short_side(rows_, columns_); }
  /// The kernel keeps moments of a wide matrix as (rank, columns), the twins as (columns, rank).
  twins::AdamState moments() const {
    twins::AdamState state{moment_of(kernel_, "m", codec_, Sign::both),
                           moment_of(kernel_, "v", codec_, Sign::positive)};
    if (side() == twins::Side::left) {
      for (Vec* values : {&state.m.values, &state.v.values}) {
        *values = transposed(Matrix{kRank, columns_, *values}).values;
      }
    }
    return state;
  }
  twins::IntQuantised codes_of_basis() const {
    return basis_codes(kernel_, kRank * std::min(rows_, columns_));
  }

  /// Whether the kernel refreshed, when the next one is due, and what it kept of the basis.
  void follow_refresh(std::span<const float> g) {
    const std::int64_t done = kernel_.steps() - 1;
    const Vec kept = kernel_.values("lazy");
    const bool due = lazy_.is_due(done);
    ASSERT_EQ(kept[kLastSlot] == static_cast<double>(done + 1), due) << "refresh";
    if (due) {
      ++refreshes_;
      const Vec exact = fresh_basis(what_, g, done);
      const std::size_t length = std::min(rows_, columns_);
      const Vec first(exact.begin(), exact.begin() + static_cast<std::ptrdiff_t>(length));
      ASSERT_EQ(Vec(kept.begin() + kDirection, kept.end()), first) << "first direction";
      lazy_.refreshed(done, first);
      const twins::IntQuantised got = codes_of_basis();
      constexpr auto kRange = twins::IntRange::with_zero;
      compare_codes(got,
                    twins::quantise_int(exact, 4, kGroup, kRange),
                    twins::quantise_int(exact, 4, kGroup, kRange, {}, got.zero),
                    "code of the basis",
                    judge);
    }
    ASSERT_EQ(kept[kGapSlot], static_cast<double>(lazy_.gap)) << "gap";
    for (std::size_t i = 0; i < lazy_.queue.size(); ++i) {
      ASSERT_NEAR(kept[kSimilarities + i], lazy_.queue[i], 1e-6) << "similarity " << i;
    }
  }

  void compare(const twins::IntQuantised& before,
               const twins::AdamState& state,
               const Matrix& gradient,
               const Basis& basis,
               double lr) {
    const std::int64_t t = kernel_.steps();
    const auto bits =
        rounding_bits(5, RandomUse::rounding, t, OneTensor::kId, gradient.values.size());
    Vec noise(bits.size());
    std::transform(
        bits.begin(), bits.end(), noise.begin(), [](std::uint32_t b) { return b / 65536.0; });
    const auto twin = [&](std::span<const std::uint8_t> zero) {
      return twins::qgalore(
          before, rows_, columns_, state, gradient, basis, settings_, lr, t, noise, kGroup, zero);
    };
    const twins::IntQuantised got = weight_codes(kernel_);
    const twins::QGaLoreStep own = twin({});
    compare_codes(got, own.weights, twin(got.zero).weights, "code of a weight", judge);
    const twins::AdamState now = moments();
    const Vec terms = project_terms(gradient, basis);
    Vec v_terms(terms.size());
    std::transform(
        terms.begin(), terms.end(), v_terms.begin(), [](double x) { return 2e-3 * x * x; });
    judge.compare_moment(now.m, own.adam.m_stored, terms_of(decode(state.m), terms, 0.1));
    judge.compare_moment(now.v, own.adam.v_stored, v_terms);
    const Tensor working = kernel_.slice().working;
    const Vec kept = values_of(got);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const auto copy = twins::round_bf16(static_cast<double>(static_cast<float>(kept[i])));
      ASSERT_EQ(static_cast<double>(to_float(working.data<bf16>()[i])), copy.value) << i;
    }
  }

  TensorCase what_;
  Codec codec_;
  std::size_t rows_, columns_;
  OneTensor kernel_;
  twins::GaLoreSettings settings_;
  twins::LazyRefresh lazy_;
  std::int64_t refreshes_ = 0;
};

/// The gap between refreshes after steps of which every tenth has no learning rate: it moves no
/// code.
std::int64_t teach(const Shape& shape, Codec codec, bool stays, int steps) {
  Pupil pupil(shape, codec);
  DirectedGradients gradients(
      static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]), stays);
  for (std::int64_t t = 1; t <= steps; ++t) {
    const double lr = t % 10 == 0 ? 0.0 : rate_of(t);
    pupil.step(gradients.next(), lr, clip_of(t));
    if (::testing::Test::HasFatalFailure()) {
      ADD_FAILURE() << to_string(shape) << " step " << t;
      return 0;
    }
  }
  EXPECT_LE(pupil.refreshes(), 1 + (steps - 1) / kGap);
  pupil.judge.expect_few_flips();
  pupil.judge.report("qgalore " + to_string(shape));
  return pupil.gap();
}

// Codes of a wide matrix run along its columns in the kernel, along the rank in the twin: wide ones
// keep their moments in f32.
void qgalore(int steps) {
  for (const auto& [shape, codec] :
       std::vector<std::pair<Shape, Codec>>{{{64, 48}, Codec::dynamic8},
                                            {{90, 41}, Codec::dynamic8},
                                            {{301, 7}, Codec::dynamic8},
                                            {{120, 100}, Codec::dynamic8},
                                            {{48, 64}, Codec::f32},
                                            {{41, 90}, Codec::f32}}) {
    const std::int64_t staying = teach(shape, codec, true, steps);
    const std::int64_t turning = teach(shape, codec, false, steps);
    EXPECT_GT(staying, kGap) << to_string(shape);
    if (std::min(shape[0], shape[1]) > 40) {  // directions of few dimensions are alike
      EXPECT_GT(staying, turning) << to_string(shape);
    }
  }
}
TEST(ExactnessOfQGaLore, StepsAreTheTwins) {
  qgalore(25);
}
TEST(ExactnessOfQGaLore, SlowStepsAreTheTwins) {
  qgalore(1000);
}

}  // namespace
}  // namespace strata::tests
