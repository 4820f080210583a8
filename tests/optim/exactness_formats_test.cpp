// Weight formats: what a step does to weights that are kept in bf16 or int8, rounding included.
#include <numeric>

#include "tests/optim/teacher.h"
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/lion.h"

namespace strata::tests {
namespace {

using twins::Codec;
using twins::Sign;
using twins::Vec;

constexpr double kBeta2 = 0.95;  // the methods' default

/// Exact weights after a step from weights and plain Adam moments before it.
Vec adam_weights(const OneTensor& kernel, const Vec& g, twins::Family family, double lr) {
  const twins::AdamWSettings s{.family = family, .beta2 = kBeta2, .weight_decay = 0.1};
  const twins::AdamState state{moment_of(kernel, "m", Codec::f32, Sign::both),
                               moment_of(kernel, "v", Codec::f32, Sign::positive)};
  return twins::adamw(kernel.weights(), state, g, s, lr, kernel.steps() + 1).weights;
}

/// Steps of AdamW on every shape; `judge_step` sees the kernel after a step, and what was before.
template <class Take, class JudgeStep>
void step_formats(WeightFormat format, int steps, const Take& take, const JudgeStep& judge_step) {
  for (const auto& [name, family] :
       {std::pair{"pytorch", twins::Family::pytorch}, std::pair{"bnb", twins::Family::bnb}}) {
    for (const Shape& shape : odd_shapes()) {
      const auto numel = static_cast<std::size_t>(shape.numel());
      OneTensor kernel(
          {.method = "adamw", .settings = {{"family", name}}, .shape = shape, .format = format},
          start_values(numel));
      Gradients gradients(numel);
      for (std::int64_t t = 1; t <= steps; ++t) {
        const std::span<const float> g = gradients.next();
        const auto before = take(kernel);
        const Vec exact = adam_weights(kernel, clipped(g, t), family, rate_of(t));
        kernel.step(g, rate_of(t), clip_of(t));
        judge_step(kernel, before, exact);
        ASSERT_FALSE(::testing::Test::HasFatalFailure()) << to_string(shape) << " step " << t;
      }
    }
  }
}

// A rounding to bf16 flips where the low 16 bits meet the noise, or one half: in a share of 2^-16
// for each f32 ulp of error, and moved weights err by less than one on average.
constexpr double kSixteenBitFlips = 1.0 / 65536;

void stochastic_rounding_is_the_twins(int steps) {
  Judge judge;
  step_formats(
      WeightFormat::bf16_stochastic,
      steps,
      [](const OneTensor& kernel) { return kernel.weights(); },
      [&](const OneTensor& kernel, const Vec& before, const Vec& exact) {
        const Vec got = kernel.weights();
        const auto bits =
            rounding_bits(5, RandomUse::rounding, kernel.steps(), OneTensor::kId, got.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          const twins::Rounded want = twins::round_bf16_stochastic(exact[i], bits[i]);
          // Counted in ulps of what the sum was made of.
          const double term = std::max(std::abs(exact[i]), std::abs(before[i]));
          const double margin = want.margin * twins::f32_ulp(exact[i]) / twins::f32_ulp(term);
          judge.compare_bf16(got[i], want.value, margin, term, "weight");
        }
      });
  judge.expect_few_flips(kSixteenBitFlips);
  judge.report("bf16_stochastic");
}
TEST(ExactnessOfFormats, StochasticRounding) {
  stochastic_rounding_is_the_twins(20);
}
TEST(ExactnessOfFormats, SlowStochasticRounding) {
  stochastic_rounding_is_the_twins(1000);
}

struct Compensated {
  Vec weights, carry;
};

/// The carry is what the weight lost, a difference of nearly equal values that are known to ulps of
/// theirs: it is off by its own rounding and those. Parts of the change, which may cancel, are up
/// to lr.
void compare_carry(double got, double change, double rest, double old, double lr) {
  const double exact = old + change + rest;
  const double parts = std::max({std::abs(old), std::abs(change), std::abs(rest), lr});
  ASSERT_LE(std::abs(got - exact), twins::bf16_ulp(exact) / 2 + kNear * twins::f32_ulp(parts));
}

void kahan_is_the_twins(int steps) {
  Judge judge;
  step_formats(
      WeightFormat::bf16_kahan,
      steps,
      [](const OneTensor& kernel) {
        return Compensated{kernel.weights(), OneTensor::wide(kernel.slice().residue)};
      },
      [&](const OneTensor& kernel, const Compensated& before, const Vec& exact) {
        const Vec got = kernel.weights(), carry = OneTensor::wide(kernel.slice().residue);
        for (std::size_t i = 0; i < got.size(); ++i) {
          const twins::KahanBf16 want = twins::kahan_bf16(
              before.weights[i], before.carry[i], exact[i] - before.weights[i], got[i]);
          judge.compare_bf16(
              got[i], want.weight.value, want.weight.margin, before.weights[i], "weight");
          compare_carry(carry[i],
                        exact[i] - before.weights[i],
                        before.weights[i] - got[i],
                        before.carry[i],
                        rate_of(kernel.steps()));
        }
      });
  judge.expect_few_flips(kSixteenBitFlips);
  judge.report("bf16_kahan");
}
TEST(ExactnessOfFormats, KahanCompensation) {
  kahan_is_the_twins(20);
}
TEST(ExactnessOfFormats, SlowKahanCompensation) {
  kahan_is_the_twins(1000);
}

void compare_int8(const OneTensor& kernel, const Vec& exact, Judge& judge) {
  const auto affine = OneTensor::wide(kernel.slice().affine);
  Vec scale;
  twins::Bytes zero;
  for (std::size_t j = 0; j < affine.size(); j += 2) {
    scale.push_back(affine[j]);
    zero.push_back(static_cast<std::uint8_t>(affine[j + 1]));
  }
  const auto bits =
      rounding_bits(5, RandomUse::rounding, kernel.steps(), OneTensor::kId, exact.size());
  Vec noise(bits.size());
  std::transform(
      bits.begin(), bits.end(), noise.begin(), [](std::uint32_t b) { return b / 65536.0; });
  constexpr auto kRange = twins::IntRange::with_zero;
  const auto own = twins::quantise_int(exact, 8, kWeightGroup, kRange, noise);
  for (std::size_t j = 0; j < zero.size(); ++j) {
    const double next = own.zero[j] + (zero[j] > own.zero[j] ? 1 : -1);
    judge.compare_choice(zero[j], own.zero[j], next, own.zero_margin[j], "zero point");
  }
  judge.compare_values(scale, own.scale, Vec(scale.size()));
  const auto twin = twins::quantise_int(exact, 8, kWeightGroup, kRange, noise, zero);
  const Tensor codes = kernel.slice().codes, working = kernel.slice().working;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const int code = codes.data<std::uint8_t>()[i];
    const double next = twin.codes[i] + (code > twin.codes[i] ? 1 : -1);
    judge.compare_choice(code, twin.codes[i], next, twin.margin[i], "int8 weight");
    const double kept =
        scale[i / kWeightGroup] * (code - static_cast<double>(zero[i / kWeightGroup]));
    const twins::Rounded copy = twins::round_bf16(static_cast<double>(static_cast<float>(kept)));
    ASSERT_EQ(static_cast<double>(to_float(working.data<bf16>()[i])), copy.value) << i;
  }
}

void int8_is_the_twins(int steps) {
  Judge judge;
  step_formats(
      WeightFormat::int8,
      steps,
      [](const OneTensor&) { return 0; },
      [&](const OneTensor& kernel, int, const Vec& exact) { compare_int8(kernel, exact, judge); });
  judge.expect_few_flips();
  judge.report("int8");
}
TEST(ExactnessOfFormats, IntegerCodes) {
  int8_is_the_twins(20);
}
TEST(ExactnessOfFormats, SlowIntegerCodes) {
  int8_is_the_twins(1000);
}

/// Plain SGD moves weights by exactly what it is told: lr 1, gradient -change.
class Mover {
 public:
  Mover(WeightFormat format, const std::vector<float>& start)
      : kernel_(
            {.method = "sgd", .shape = {static_cast<std::int64_t>(start.size())}, .format = format},
            start),
        change_(start.size()) {}
  template <class Change>
  void by(const Change& change) {
    for (float& value : change_) {
      value = -static_cast<float>(change());
    }
    kernel_.step(change_, 1.0);
  }
  void by_each(std::span<const float> gradient, double lr) { kernel_.step(gradient, lr); }
  const OneTensor& kernel() const { return kernel_; }

 private:
  OneTensor kernel_;
  std::vector<float> change_;
};

constexpr double kUlp = 0x1p-7;  // of bf16 at 1

// Spec 16.1: 1e-3 ulp, 50 000 times, is 50 ulps give or take 5 sigma, sigma^2 = n f (1 - f).
TEST(ExactnessOfFormats, StochasticWeightsMoveAsFarAsTheirUpdates) {
  constexpr std::size_t kRuns = 16;
  Mover run(WeightFormat::bf16_stochastic, std::vector<float>(kRuns, 1.f));
  for (int i = 0; i < 50'000; ++i) {
    run.by([] { return 1e-3 * kUlp; });
  }
  double mean = 0;
  for (const double w : run.kernel().weights()) {
    const double ulps = (w - 1) / kUlp;
    EXPECT_NEAR(ulps, 50, 35);
    mean += ulps / kRuns;
  }
  EXPECT_NEAR(mean, 50, 35 / std::sqrt(kRuns));
}

TEST(ExactnessOfFormats, KahanFollowsRandomUpdatesWithinTwoUlps) {
  constexpr std::size_t kRuns = 16;
  Mover run(WeightFormat::bf16_kahan, std::vector<float>(kRuns, 1.f));
  Vec exact(kRuns, 1.0);
  twins::Draws draws(3);
  for (int i = 0; i < 100'000; ++i) {
    std::size_t at = 0;
    run.by([&] {
      const double change = static_cast<double>(static_cast<float>(0.1 * kUlp * draws.normal()));
      exact[at++] += change;
      return change;
    });
  }
  const Vec got = run.kernel().weights();
  for (std::size_t i = 0; i < kRuns; ++i) {
    // An ulp of where it went; the walk of 32 ulps stays within a factor 2 of the start.
    EXPECT_LE(std::abs(got[i] - exact[i]), 2 * kUlp) << exact[i];
  }
}

double kahan_moves(double ulps, int steps) {
  Mover run(WeightFormat::bf16_kahan, {1.f});
  for (int i = 0; i < steps; ++i) {
    run.by([&] { return ulps * kUlp; });
  }
  return (run.kernel().weights()[0] - 1) / kUlp;
}

TEST(ExactnessOfFormats, KahanFollowsSmallConstantUpdatesAndStallsAtTiniest) {
  EXPECT_NEAR(kahan_moves(0.01, 10'000), 100, 3);
  // Known: the carry is bf16 itself. Above a quarter of an ulp it cannot hold 2^-11 of one.
  EXPECT_LE(kahan_moves(0.0005, 100'000), 1) << "exactly 50";
}

// Spec 4.8: updates of s / 2000 for 10 000 steps are 5 codes.
TEST(ExactnessOfFormats, IntegerWeightsDriftAsFarAsTheirUpdates) {
  constexpr std::size_t kNumel = 2048;
  std::vector<float> start = start_values(kNumel), g(kNumel, -1.f);
  for (std::size_t i = 0; i < kNumel; i += kWeightGroup) {
    start[i] = -2.f, start[i + 1] = 2.f;  // the ends of the range stand still
    g[i] = g[i + 1] = 0.f;
  }
  Mover run(WeightFormat::int8, start);
  const Vec before = run.kernel().weights();
  const double change = 4.0 / 255 / 2000;
  for (int i = 0; i < 10'000; ++i) {
    run.by_each(g, change);
  }
  const Vec after = run.kernel().weights();
  double drift = 0;
  for (std::size_t i = 0; i < kNumel; ++i) {
    drift += (after[i] - before[i]) / static_cast<double>(kNumel - 16);
  }
  EXPECT_NEAR(drift / (10'000 * change), 1, 0.05);
}

}  // namespace
}  // namespace strata::tests
