// Rules with a decision or coded state, teacher-forced: before every step the twin takes the
// kernel's weights and state bytes and computes that one step in float64.
#include <functional>

#include "tests/optim/teacher.h"
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/lion.h"
#include "tests/support/twins/percentile_clip.h"
#include "tests/support/twins/sgd.h"

namespace strata::tests {
namespace {

using twins::Codec;
using twins::Moment;
using twins::Sign;
using twins::Vec;

/// What a step was given, and the kernel after it.
struct Taken {
  const OneTensor& kernel;
  Vec before;  // weights
  Vec g;
  double lr = 0;
  std::int64_t t = 1;
};

/// Steps of every shape; `make` returns what looks at the kernel before a step and gives back what
/// judges it after.
using After = std::function<void(const Taken&)>;
using Before = std::function<After(const OneTensor& kernel, Judge& judge)>;

void teach(const std::string& name,
           const TensorCase& what,
           int steps,
           const Before& before,
           double flip_rate = 1e-5) {
  Judge judge;
  for (const Shape& shape : odd_shapes()) {
    TensorCase one = what;
    one.shape = shape;
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel(one, start_values(numel));
    Gradients gradients(numel);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      Taken taken{kernel, kernel.weights(), clipped(g, t), rate_of(t), t};
      const After after = before(kernel, judge);
      kernel.step(g, taken.lr, clip_of(t));
      after(taken);
      if (::testing::Test::HasFatalFailure()) {
        FAIL() << name << " " << to_string(shape) << " step " << t;
      }
    }
  }
  // A short run has too few elements to show a rate of 1e-5.
  judge.expect_few_flips(steps < 1000 ? std::max(flip_rate, 3e-5) : flip_rate);
  judge.report(name);
}

/// fp8: the kernel's exponents against the twin's own.
void compare_exponents(const Vec& ours, const twins::Encoded& twin, Judge& judge) {
  for (std::size_t j = 0; j < ours.size(); ++j) {
    const double theirs = twin.state.range[3 * j + 1];
    const double next = theirs + (ours[j] > theirs ? 1. : -1.) / 16;
    judge.compare_choice(ours[j], theirs, next, twin.exponent_margin[j], "exponent");
  }
}

Before adam_teacher(twins::AdamWSettings s) {
  return [s](const OneTensor& kernel, Judge& judge) -> After {
    const auto take = [s, &kernel] {
      return twins::AdamState{moment_of(kernel, "m", s.m_codec, Sign::both),
                              moment_of(kernel, "v", s.v_codec, Sign::positive)};
    };
    return [s, &judge, take, state = take()](const Taken& taken) {
      twins::AdamWSettings now = s;
      now.m_codec = state.m.codec;
      now.v_codec = state.v.codec;
      const twins::AdamState got = take();
      const Vec m_exponents = exponents_of(got.m), v_exponents = exponents_of(got.v);
      if (!m_exponents.empty()) {
        const twins::AdamDirection own = twins::adam_direction(state, taken.g, now, taken.t);
        compare_exponents(m_exponents, own.m_stored, judge);
        compare_exponents(v_exponents, own.v_stored, judge);
      }
      const twins::AdamWStep twin = twins::adamw(
          taken.before, state, taken.g, now, taken.lr, taken.t, {m_exponents, v_exponents, {}});
      judge.compare_weights(taken.kernel.weights(), twin.weights, taken.before, taken.lr);
      const Vec terms = terms_of(decode(state.m), taken.g, 1 - s.beta1);
      judge.compare_moment(got.m, twin.adam.m_stored, terms);
      judge.compare_moment(got.v, twin.adam.v_stored, Vec(terms.size()));
    };
  };
}

twins::AdamWSettings adam_with(Codec codec, twins::Family family = twins::Family::pytorch) {
  return {.family = family,
          .beta1 = 0.9,
          .beta2 = 0.999,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .m_codec = codec,
          .v_codec = codec};
}

void adam8bit(int steps) {
  const std::vector<optim::Setting> settings{{"beta2", "0.999"}, {"min_coded", "1"}};
  teach("adamw8bit", {"adamw8bit", settings}, steps, adam_teacher(adam_with(Codec::dynamic8)));
  std::vector<optim::Setting> bnb = settings;
  bnb.push_back({"family", "bnb"});
  teach("adamw8bit bnb",
        {"adamw8bit", bnb},
        steps,
        adam_teacher(adam_with(Codec::dynamic8, twins::Family::bnb)));
}
void adam4bit(int steps) {
  teach("adamw4bit",
        {"adamw4bit", {{"beta2", "0.999"}, {"min_coded", "1"}}},
        steps,
        adam_teacher(adam_with(Codec::four_bit)));
}
void coat(int steps) {
  teach("coat_adamw",
        {"coat_adamw", {{"beta2", "0.999"}, {"min_coded", "1"}}},
        steps,
        adam_teacher(adam_with(Codec::fp8)));
}
TEST(ExactnessOfCodes, EightBitAdam) {
  adam8bit(20);
}
TEST(ExactnessOfCodes, SlowEightBitAdam) {
  adam8bit(1000);
}
TEST(ExactnessOfCodes, FourBitAdam) {
  adam4bit(20);
}
TEST(ExactnessOfCodes, SlowFourBitAdam) {
  adam4bit(1000);
}
TEST(ExactnessOfCodes, CoatAdam) {
  coat(20);
}
TEST(ExactnessOfCodes, SlowCoatAdam) {
  coat(1000);
}

// Below min_coded, and of vectors, moments are plain.
TEST(ExactnessOfCodes, SmallTensorsAndVectorsKeepPlainMoments) {
  for (const char* method : {"adamw8bit", "adamw4bit", "coat_adamw"}) {
    teach(method,
          {method, {{"beta2", "0.999"}, {"min_coded", "5000"}}},
          10,
          adam_teacher(adam_with(Codec::f32)));
    const OneTensor vector({method, {}, {4099}, Role::vector}, start_values(4099));
    EXPECT_EQ(vector.field("m").dtype(), DType::f32) << method;
    const OneTensor embed({method, {}, {100, 50}, Role::embed}, start_values(5000));
    EXPECT_EQ(static_cast<bool>(embed.field("m.codes")), std::string(method) == "coat_adamw");
  }
}

Before lion_teacher(twins::LionSettings s) {
  return [s](const OneTensor& kernel, Judge& judge) -> After {
    const Moment m = moment_of(kernel, "m", s.codec, Sign::both);
    return [s, &judge, m](const Taken& taken) {
      twins::LionSettings now = s;
      now.codec = m.codec;
      const twins::LionStep twin = twins::lion(taken.before, m, taken.g, now, taken.lr);
      Vec want = twin.weights;
      const Vec got = taken.kernel.weights();
      const double kept = 1 - taken.lr * s.weight_decay;
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double sign = std::round((taken.before[i] * kept - got[i]) / taken.lr);
        const double next = twin.sign[i] == 0 ? sign : 0;
        const bool turned = sign == -twin.sign[i];  // past zero, which is no interval
        judge.compare_choice(
            sign, twin.sign[i], turned ? sign : next, twin.blend_margin[i], "sign");
        want[i] = taken.before[i] * kept - taken.lr * sign;
      }
      judge.compare_weights(got, want, taken.before, taken.lr);
      judge.compare_moment(moment_of(taken.kernel, "m", s.codec, Sign::both),
                           twin.m_stored,
                           terms_of(decode(m), taken.g, 1 - s.beta2));
    };
  };
}

void lions(int steps) {
  const twins::LionSettings s{.beta1 = 0.9, .beta2 = 0.99, .weight_decay = 0.3};
  teach("lion", {"lion", {}}, steps, lion_teacher(s));
  twins::LionSettings coded = s;
  coded.codec = Codec::dynamic8;
  teach("lion8bit", {"lion8bit", {{"min_coded", "1"}}}, steps, lion_teacher(coded));
  coded.codec = Codec::four_bit;
  teach(
      "lion 4bit", {"lion", {{"states", "4bit"}, {"min_coded", "1"}}}, steps, lion_teacher(coded));
}
TEST(ExactnessOfCodes, LionInThreeCodecs) {
  lions(20);
}
TEST(ExactnessOfCodes, SlowLionInThreeCodecs) {
  lions(1000);
}

Before sgd_teacher(twins::SgdSettings s) {
  return [s](const OneTensor& kernel, Judge& judge) -> After {
    const auto take = [s, &kernel] { return moment_of(kernel, "b", s.codec, Sign::both); };
    return [s, &judge, take, b = take()](const Taken& taken) {
      const Moment got = take();
      const Vec exponents = exponents_of(got);
      if (!exponents.empty()) {
        const twins::SgdStep own = twins::sgd(taken.before, b, taken.g, s, taken.lr, taken.t);
        compare_exponents(exponents, own.b_stored, judge);
      }
      const twins::SgdStep twin =
          twins::sgd(taken.before, b, taken.g, s, taken.lr, taken.t, exponents);
      judge.compare_weights(taken.kernel.weights(), twin.weights, taken.before, taken.lr);
      Vec terms = terms_of(decode(b), taken.g, 1);
      for (std::size_t i = 0; i < terms.size(); ++i) {
        terms[i] = std::max(terms[i], s.weight_decay * std::abs(taken.before[i]));
      }
      judge.compare_moment(got, twin.b_stored, terms);
    };
  };
}

void sgd_coded(int steps) {
  twins::SgdSettings s{.momentum = 0.9, .weight_decay = 0.1, .codec = Codec::dynamic8};
  teach(
      "sgd8bit", {"sgd8bit", {{"min_coded", "1"}, {"weight_decay", "0.1"}}}, steps, sgd_teacher(s));
  s = {.momentum = 0.9,
       .weight_decay = 0.1,
       .decay = twins::Decay::decoupled,
       .lookahead = twins::Lookahead::nesterov,
       .codec = Codec::fp8};
  teach("sgd fp8 nesterov",
        {"sgd",
         {{"min_coded", "1"},
          {"weight_decay", "0.1"},
          {"states", "fp8"},
          {"momentum", "0.9"},
          {"nesterov", "true"},
          {"decoupled", "true"}}},
        steps,
        sgd_teacher(s));
}
TEST(ExactnessOfCodes, SgdInTwoCodecs) {
  sgd_coded(20);
}
TEST(ExactnessOfCodes, SlowSgdInTwoCodecs) {
  sgd_coded(1000);
}

// bf16 has one boundary in 2^16 f32 ulps. Of values that err by up to e ulps either way a share of
// e / 2^16 comes down on the other side; sums whose parts are larger than they are err more. 4 ulps
// of the largest summand, as elsewhere, are 6.1e-5 of all values.
constexpr double kBf16Flips = 4.0 / 65536;

Before bf16_teacher() {
  return [](const OneTensor& kernel, Judge& judge) -> After {
    const auto take = [&kernel] {
      return twins::AdamState{moment_of(kernel, "m", Codec::bf16, Sign::both),
                              moment_of(kernel, "v", Codec::bf16, Sign::positive)};
    };
    return [&judge, take, state = take()](const Taken& taken) {
      const twins::AdamWStep twin =
          twins::adamw(taken.before, state, taken.g, adam_with(Codec::bf16), taken.lr, taken.t);
      const twins::AdamState got = take();
      judge.compare_weights(taken.kernel.weights(), twin.weights, taken.before, taken.lr);
      judge.compare_moment(got.m, twin.adam.m_stored, terms_of(decode(state.m), taken.g, 0.1));
      const auto bits =
          rounding_bits(5, RandomUse::state_rounding, taken.t, OneTensor::kId, taken.before.size());
      for (std::size_t i = 0; i < bits.size(); ++i) {
        const twins::Rounded want = twins::round_bf16_stochastic(twin.adam.v[i], bits[i]);
        judge.compare_bf16(got.v.values[i], want.value, want.margin, 0, "second moment");
      }
    };
  };
}

void bf16_moments(int steps) {
  teach("adamw bf16 moments",
        {"adamw", {{"beta2", "0.999"}, {"states", "bf16"}, {"min_coded", "1"}}},
        steps,
        bf16_teacher(),
        kBf16Flips);
}
TEST(ExactnessOfCodes, SixteenBitMoments) {
  bf16_moments(20);
}
TEST(ExactnessOfCodes, SlowSixteenBitMoments) {
  bf16_moments(1000);
}

void percentile_clip_is_the_twins(int steps) {
  for (const int percentile : {5, 50}) {
    const std::string text = std::to_string(percentile);
    const std::size_t numel = 2257;
    OneTensor kernel({"adamw8bit", {{"percentile_clip", text}, {"min_coded", "1"}}},
                     start_values(numel));
    Gradients gradients(numel);
    Vec ring(100);
    Judge judge;
    int clips = 0;
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      Vec exact = clipped(g, t);
      const twins::PercentileClip clip = twins::percentile_clip(ring, exact, percentile, t);
      ring = clip.ring;
      clips += clip.factor < 1;
      for (double& value : exact) {
        value *= clip.factor;
      }
      twins::AdamWSettings s = adam_with(Codec::dynamic8);
      s.beta2 = 0.95;
      const After after = adam_teacher(s)(kernel, judge);
      const Vec before = kernel.weights();
      kernel.step(g, rate_of(t), clip_of(t));
      after({kernel, before, exact, rate_of(t), t});
      Vec norms = kernel.values("clip.norms"), want = ring;
      std::sort(norms.begin(), norms.end());
      std::sort(want.begin(), want.end());
      for (std::size_t i = 0; i < norms.size(); ++i) {
        ASSERT_NEAR(norms[i], std::sqrt(want[i]), 1e-6 * norms[i]) << t;
      }
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "step " << t;
    }
    EXPECT_GT(clips, 0);
    judge.expect_few_flips();
    judge.report("adamw8bit percentile " + text);
  }
}
TEST(ExactnessOfCodes, PercentileClipping) {
  percentile_clip_is_the_twins(120);
}
TEST(ExactnessOfCodes, SlowPercentileClipping) {
  percentile_clip_is_the_twins(1000);
}

}  // namespace
}  // namespace strata::tests
