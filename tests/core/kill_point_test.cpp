#include "core/kill_point.h"

#include <csignal>
#include <cstdlib>

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/support/forked.h"

namespace strata {
namespace {

/// Hits points in a fresh process, in which the environment is read for the first time.
tests::ChildEnd with_environment(const char* value) {
  return tests::run_forked([&]() -> std::string {
    ::setenv("STRATA_KILL_AT", value, 1);
    ::execl("/proc/self/exe",
            "core_tests",
            "--gtest_filter=KillPoint.DISABLED_HitsTwoPoints",
            "--gtest_also_run_disabled_tests",
            "--gtest_brief=1",
            nullptr);
    return "no exec";
  });
}

TEST(KillPoint, DISABLED_HitsTwoPoints) {
  kill_point("one");
  kill_point("two");
  kill_point("one");
}

TEST(KillPoint, TheEnvironmentNamesThePointAndTheHit) {
  EXPECT_EQ(with_environment("two").signal, SIGKILL);
  EXPECT_EQ(with_environment("one:2").signal, SIGKILL);
  EXPECT_EQ(with_environment("one:3").exit_code, 0);
  EXPECT_EQ(with_environment("two:2").exit_code, 0);
  EXPECT_EQ(with_environment("").exit_code, 0);
  EXPECT_EQ(with_environment("on").exit_code, 0);
}

TEST(KillPoint, AnArmedOneDiesAtTheAskedHit) {
  for (const int hits : {1, 2, 3}) {
    const tests::ChildEnd end = tests::run_forked([&]() -> std::string {
      arm_kill_point("here:3");
      for (int i = 0; i < hits; ++i) {
        kill_point("here");
        kill_point("there");
      }
      return "alive";
    });
    EXPECT_EQ(end.signal, hits == 3 ? SIGKILL : 0);
  }
}

}  // namespace
}  // namespace strata
