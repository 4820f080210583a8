#include "tests/support/command.h"

#include <gtest/gtest.h>

namespace strata::tests {
namespace {

TEST(Command, CapturesBothStreamsAndTheExitCode) {
  const CommandEnd help = run_command({"--help"});
  EXPECT_EQ(help.exit_code, 0) << help.text();
  EXPECT_NE(help.out.find("usage: strata"), std::string::npos) << help.text();
  EXPECT_EQ(help.err, "");
  const CommandEnd wrong = run_command({"trian"});
  EXPECT_EQ(wrong.exit_code, 2) << wrong.text();
  EXPECT_EQ(wrong.out, "");
  EXPECT_NE(wrong.err.find("train"), std::string::npos) << wrong.text();
}

TEST(Command, KillsWhatTakesTooLong) {
  const CommandEnd end = run_command({"demo", "--help"}, {.timeout = std::chrono::seconds(0)});
  EXPECT_TRUE(end.timed_out);
}

}  // namespace
}  // namespace strata::tests
