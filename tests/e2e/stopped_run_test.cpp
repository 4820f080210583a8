// What stops a run from outside or inside: a full disk, a signal, a loss that is no number, a kill.
// The exit code says which; what was saved before stays, and going on gives the undisturbed bytes.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/forked.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What a run directory has of checkpoints, with their bytes.
std::map<std::string, std::string> checkpoints(const TinyRuns& runs) {
  auto all = runs.contents();
  std::erase_if(all, [](const auto& file) { return !file.first.starts_with("run/ckpt/"); });
  return all;
}

TEST(StoppedRun, AFileThatMayNotGrowIsAFullDisk) {
  const TinyRuns runs;
  const fs::path run = runs.killed("run");
  const auto before = checkpoints(runs);
  expect_stopped(run_command(runs.train("run", {"--resume=auto"}), {.file_limit_bytes = 20'000}),
                 8,
                 {"d00000_00.safetensors", "File too large", "ulimit -f"});
  EXPECT_EQ(checkpoints(runs), before);
  const CommandEnd end = run_command({"resume", run});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  expect_identical(run, runs.finished("undisturbed"));
}

TEST(StoppedRun, AFullDiskKeepsWhatWasSavedAndTheRunGoesOnWhenThereIsRoom) {
  const TempDir mount;
  const TinyRuns runs;
  const fs::path run = mount / "run", undisturbed = runs.finished("undisturbed");
  const auto child = run_on_small_disk(mount, 2 << 20, [&] {
    const Words train = runs.train("run", {"--run.dir=" + run.string(), "--resume=auto"});
    run_command(train, {.environment = {{"STRATA_KILL_AT", "train.step:4"}}});
    std::ofstream filler(mount / "filler", std::ios::binary);
    const auto room = static_cast<std::int64_t>(fs::space(mount.path()).available) - 150'000;
    filler << std::string(static_cast<std::size_t>(room), 'x') << std::flush;
    expect_stopped(run_command(train), 8, {"step 4", "free", "checkpoint.keep_last"});
    std::set<std::string> kept;
    for (const auto& entry : fs::directory_iterator(run / "ckpt")) {
      kept.insert(entry.path().filename());
    }
    EXPECT_EQ(kept, (std::set<std::string>{"s000000000002-i0001", "s000000000003-i0001"}));
    expect_identical(run, run / "ckpt" / "s000000000003-i0001");
    fs::remove(mount / "filler");
    filler.close();
    const CommandEnd end = run_command(train);
    EXPECT_EQ(end.exit_code, 0) << end.text();
    expect_identical(run, undisturbed);
    return std::string(testing::Test::HasFailure() ? "failed" : "as expected");
  });
  if (!child) {
    GTEST_SKIP() << "mounting a small disk needs CAP_SYS_ADMIN";
  }
  EXPECT_EQ(child->text, "as expected");
}

TEST(StoppedRun, ALossThatIsNoNumber) {
  const TinyRuns runs;
  const Words train = runs.train("run",
                                 {"--train.schedule.lr=1e30",
                                  "--train.steps=50",
                                  "--optim.clip=0",
                                  "--train.on_nonfinite=stop",
                                  "--resume=auto"});
  expect_stopped(run_command(train), 6, {"loss", "run/ckpt/s0", "train.schedule.lr"});
  const auto saved = checkpoints(runs);
  EXPECT_FALSE(saved.empty());
  EXPECT_EQ(run_command({"inspect", "show", runs / "run"}).exit_code, 0);
  // Trying again and again must not push the good checkpoints out.
  expect_stopped(run_command(train), 6, {"loss", "run/ckpt/s0", "train.schedule.lr"});
  expect_stopped(run_command(train), 6, {"loss", "run/ckpt/s0", "train.schedule.lr"});
  EXPECT_EQ(checkpoints(runs), saved);
}

class SignalledRun : public testing::TestWithParam<std::vector<int>> {};

TEST_P(SignalledRun, StopsWith75AndGoesOn) {
  const TinyRuns runs;
  const auto train = [&](const std::string& name, std::int64_t steps, const Words& more) {
    Words words = more;
    words.push_back("--train.steps=" + std::to_string(steps));
    words.push_back("--train.schedule.kind=constant");  // what a step does depends on no later one
    words.push_back("--checkpoint.every=0");
    words.push_back("--json");
    return runs.train(name, words);
  };
  Command command(train("run", 10'000'000, {}));
  ASSERT_TRUE(command.wait_for_err("loss"));
  for (const int number : GetParam()) {
    command.signal(number);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const CommandEnd end = command.wait();
  ASSERT_EQ(end.exit_code, 75) << end.text();
  const json said = json::parse(end.out);
  EXPECT_TRUE(said["interrupted"]) << end.text();
  const std::int64_t steps = said["step"].get<std::int64_t>() + 2;
  EXPECT_EQ(run_command(train("run", steps, {"--resume=auto"})).exit_code, 0);
  EXPECT_EQ(run_command(train("undisturbed", steps, {})).exit_code, 0);
  expect_identical(runs / "run", runs / "undisturbed");
}

// A second signal within two seconds, the same or another, changes nothing.
INSTANTIATE_TEST_SUITE_P(EverySignal,
                         SignalledRun,
                         testing::Values(std::vector<int>{SIGTERM},
                                         std::vector<int>{SIGINT},
                                         std::vector<int>{SIGUSR1},
                                         std::vector<int>{SIGTERM, SIGTERM},
                                         std::vector<int>{SIGUSR1, SIGTERM}));

TEST(StoppedRun, AnotherModelIsNotResumed) {
  const TinyRuns runs;
  const fs::path run = runs.killed("run");
  const auto before = runs.contents();
  expect_refused(run_command(runs.train("run", {"--model.C=32", "--resume=auto"})),
                 2,
                 {"model.C", "'16' in the checkpoint", "'32' here", "another --run.dir"});
  EXPECT_EQ(runs.contents(), before);
}

TEST(StoppedRun, MetricsOfAKilledRunAreWholeAfterResuming) {
  const TinyRuns runs;
  const fs::path metrics = runs.killed("run") / "metrics.jsonl";
  std::ofstream(metrics, std::ios::app) << R"({"step": 5, "lo)";
  const CommandEnd end = run_command({"resume", runs / "run"});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  std::vector<std::int64_t> steps;
  std::ifstream in(metrics);
  for (std::string line; std::getline(in, line);) {
    const json object = json::parse(line, nullptr, false);
    ASSERT_TRUE(object.is_object()) << line;
    steps.push_back(object["step"]);
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
}

}  // namespace
}  // namespace strata::tests
