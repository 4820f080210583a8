#include "optim/lr_schedule.h"

#include <cmath>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::optim {
namespace {

using ::testing::HasSubstr;

std::string refusal(const LrScheduleConfig& config, std::int64_t total_steps) {
  try {
    config.validate(total_steps);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    return error.what();
  }
  return "accepted";
}

// The 25 values published with the cs336 course (tests/test_optimizer.py).
TEST(LrSchedule, CosineWithWarmUpMatchesPublishedValues) {
  const double published[] = {
      0,
      0.14285714285714285,
      0.2857142857142857,
      0.42857142857142855,
      0.5714285714285714,
      0.7142857142857143,
      0.8571428571428571,
      1.0,
      0.9887175604818206,
      0.9554359905560885,
      0.9018241671106134,
      0.8305704108364301,
      0.7452476826029011,
      0.6501344202803414,
      0.55,
      0.44986557971965857,
      0.3547523173970989,
      0.26942958916356996,
      0.19817583288938662,
      0.14456400944391146,
      0.11128243951817937,
      0.1,
      0.1,
      0.1,
      0.1,
  };
  const LrScheduleConfig config{.kind = Decay::cosine,
                                .lr = 1.0,
                                .final_fraction = 0.1,
                                .warmup_steps = 7,
                                .decay_steps = 21};
  config.validate(25);
  for (std::int64_t step = 0; step < 25; ++step) {
    EXPECT_NEAR(learning_rate(config, step, 25), published[step], 1e-12) << step;
  }
}

TEST(LrSchedule, LinearFallsToTheEndOfTheRun) {
  const LrScheduleConfig config{
      .kind = Decay::linear, .lr = 2.0, .final_fraction = 0.25, .warmup_steps = 2};
  EXPECT_DOUBLE_EQ(learning_rate(config, 1, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 2, 10), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 6, 10), 1.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10, 10), 0.5);
}

TEST(LrSchedule, ConstantStaysAfterWarmUp) {
  const LrScheduleConfig config{.kind = Decay::constant, .lr = 3.0, .warmup_steps = 3};
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 5), 0.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3, 5), 3.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1000, 5), 3.0);
}

TEST(LrSchedule, WsdIsStableThenFallsByOneMinusRoot) {
  const LrScheduleConfig config{.kind = Decay::wsd,
                                .lr = 1.0,
                                .final_fraction = 0.0,
                                .warmup_steps = 10,
                                .cooldown_fraction = 0.25};
  config.validate(400);
  EXPECT_DOUBLE_EQ(learning_rate(config, 5, 400), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 11, 400), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 300, 400), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 325, 400), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 364, 400), 1.0 - 0.8);
  EXPECT_DOUBLE_EQ(learning_rate(config, 400, 400), 0.0);
}

TEST(LrSchedule, EdgesAreDefined) {
  const LrScheduleConfig no_warmup{.kind = Decay::cosine, .lr = 1.0, .final_fraction = 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(no_warmup, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(no_warmup, 0, 0), 0.1);
  const LrScheduleConfig all_warmup{.kind = Decay::cosine, .lr = 1.0, .warmup_steps = 10};
  EXPECT_EQ(refusal(all_warmup, 10), "accepted");
  EXPECT_DOUBLE_EQ(learning_rate(all_warmup, 10, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(all_warmup, 11, 10), 0.1);
}

TEST(LrSchedule, RefusesWhatCannotBeMeant) {
  EXPECT_EQ(refusal({.warmup_steps = 11}, 10),
            "train.schedule.warmup_steps: warm-up of 11 steps does not end before step 10; set it "
            "to at most 10 or raise train.steps");
  EXPECT_THAT(refusal({.warmup_steps = 11, .decay_steps = 10}, 100),
              HasSubstr("raise train.schedule.decay_steps"));
  EXPECT_THAT(refusal({.lr = -1.0}, 10), HasSubstr("schedule.lr"));
  EXPECT_THAT(refusal({.lr = NAN}, 10), HasSubstr("schedule.lr"));
  EXPECT_THAT(refusal({.final_fraction = 1.1}, 10), HasSubstr("final_fraction"));
  EXPECT_THAT(refusal({.warmup_steps = -1}, 10), HasSubstr("warmup_steps"));
  EXPECT_THAT(refusal({.decay_steps = -1}, 10), HasSubstr("decay_steps"));
  EXPECT_THAT(refusal({.kind = Decay::wsd, .cooldown_fraction = 0.0}, 10),
              HasSubstr("cooldown_fraction"));
}

}  // namespace
}  // namespace strata::optim
