// The method that optim/README.md shows: tests/CMakeLists.txt makes a source of what stands there.
#include <gtest/gtest.h>

#include "tests/optim/method_harness.h"
#include "tests/support/errors.h"

namespace strata::optim {
namespace {

TEST(ReadmeMethod, RunsByName) {
  MethodHarness<double> run("signum", {{"beta", "0.5"}}, {1.0, -2.0, 3.0});
  run.step(std::vector<double>{0.5, -1.0, 0.0}, 0.125);  // averages 0.25, -0.5, 0
  EXPECT_EQ(run.as_double(), (std::vector<double>{0.875, -1.875, 3.0}));
  run.step(std::vector<double>{-0.5, 0.25, 1.0}, 0.125);  // -0.125, -0.125, 0.5
  EXPECT_EQ(run.as_double(), (std::vector<double>{1.0, -1.75, 2.875}));
}

TEST(ReadmeMethod, HasSettingsOfItsOwn) {
  EXPECT_EQ(optimizer_settings("signum").back().name, "beta");
  tests::expect_error(Errc::config, {"optim.beta", "0 <= beta < 1", "'1'"}, [] {
    make_optimizer("signum", std::vector<Setting>{{"beta", "1"}});
  });
}

TEST(ReadmeMethod, CombinesWithEveryPart) {
  const ParamInfo matrix{1, "w", Role::matrix, {64, 128}};
  const auto coded = make_optimizer("signum", std::vector<Setting>{{"states", "4bit"}});
  EXPECT_EQ(coded->state_layout(matrix).front().name, "m.codes");
  const auto low_rank = make_optimizer(
      "adamw",
      std::vector<Setting>{
          {"rule", "signum"}, {"subspace", "random"}, {"rank", "8"}, {"weight_decay", "0"}});
  EXPECT_EQ(low_rank->state_layout(matrix).front().per_unit, 8 * 128);
}

}  // namespace
}  // namespace strata::optim
