#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "tests/parallel/mpi_options.h"
#include "tests/support/errors.h"
#include "tests/support/mpirun.h"

namespace strata::parallel {
namespace {

using tests::MpirunEnd;

std::string this_program() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

/// Ranks of this very program, told by `words` what to do.
MpirunEnd run_ranks(int ranks,
                    const std::string& words,
                    const std::string& filter,
                    std::vector<std::pair<std::string, std::string>> environment = {}) {
  environment.emplace_back(kTestVariable, words);
  return tests::run_mpirun(
      ranks, {this_program(), "--gtest_filter=" + filter, "--gtest_brief=1"}, environment);
}

#define NEEDS_MPIRUN()                                    \
  if (under_mpi_launcher() || !tests::has_mpirun()) {     \
    GTEST_SKIP() << "needs mpirun (package openmpi-bin)"; \
  }                                                       \
  static_assert(true)

struct Ranks {
  std::string name;
  int size;
  std::string words;
  std::vector<std::pair<std::string, std::string>> environment = {};
};

class MpiRanks : public testing::TestWithParam<Ranks> {};

/// Every case of communicator_test.cpp, with ranks that are processes.
TEST_P(MpiRanks, KeepTheContract) {
  NEEDS_MPIRUN();
  const Ranks& p = GetParam();
  const MpirunEnd end = run_ranks(p.size, p.words, "*Contract.*/mpi*", p.environment);
  EXPECT_EQ(end.exit_code, 0) << end.text;
  std::size_t passed = 0;  // each rank says so
  for (std::size_t at = 0; (at = end.text.find("[  PASSED  ]", at)) != std::string::npos; ++at) {
    ++passed;
  }
  EXPECT_EQ(passed, static_cast<std::size_t>(p.size)) << end.text;
  EXPECT_EQ(end.text.find("PASSED  ] 0 "), std::string::npos) << end.text;
}

INSTANTIATE_TEST_SUITE_P(
    Mpi,
    MpiRanks,
    testing::Values(
        Ranks{"np1", 1, ""},
        Ranks{"np2_window", 2, "path=window"},
        Ranks{"np3_window", 3, "path=window"},
        Ranks{"np4_window_small_boxes", 4, "path=window box=4096"},
        Ranks{"np2_network", 2, "", {{"STRATA_COMM", "network"}}},
        Ranks{"np3_network_small_boxes", 3, "path=network box=4096"},
        Ranks{"np4_network", 4, "path=network"},
        Ranks{"np2_network_messages_of_701_bytes", 2, "path=network box=4096 limit=701"},
        // The sender of a long message must then go on with it while it waits elsewhere.
        Ranks{"np3_window_copied_messages",
              3,
              "path=window",
              {{"OMPI_MCA_btl_vader_single_copy_mechanism", "none"}}}),
    [](const auto& ranks) { return ranks.param.name; });

// What a rank of the tests below does, as a program would: errors end it with their exit code.

void say(const std::string& text) {
  std::fprintf(stderr, "%s\n", (text + ";").c_str());
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Sums and barriers for ever.
void work(Communicator& c) {
  Tensor x = Tensor::zeros(DType::f32, {10000});
  for (;;) {
    c.all_reduce(x);
    c.barrier();
  }
}

void play(const std::string& scenario, Communicator& c) {
  const bool culprit = c.rank() == 1;
  if (culprit) {
    std::signal(SIGTERM, SIG_DFL);  // so that mpirun need not wait for it
  }
  if (culprit && scenario == "sleep") {
    std::this_thread::sleep_for(std::chrono::seconds(30));
  }
  if (culprit && scenario == "killed") {
    std::raise(SIGKILL);
  }
  if (culprit && scenario == "abort") {
    c.abort(75);
  }
  if (culprit && scenario == "throws") {
    throw Error(Errc::numerics, "not a number");
  }
  if (scenario == "recv") {  // from a rank that sends nothing
    std::byte byte{};
    if (c.rank() == 0) {
      c.recv({&byte, 1}, 1, 5);
    }
    std::this_thread::sleep_for(std::chrono::seconds(30));
  }
  work(c);
}

int run_scenario(const std::string& scenario) {
  std::signal(SIGTERM, SIG_IGN);  // mpirun sends it when a rank ends; the program saves then
  auto start = std::chrono::steady_clock::now();
  int code = 0;
  try {
    const auto c = make_mpi_communicator(test_options());
    c->barrier();
    start = std::chrono::steady_clock::now();
    play(scenario, *c);
  } catch (const Error& error) {
    say(error.what());
    code = error.exit_code();
  }
  say("exit " + std::to_string(code) + " after " + std::to_string(seconds_since(start)) + " s");
  return code;
}

/// Takes over before any test where a scenario is asked for.
class Scenario : public testing::Environment {
  void SetUp() override {
    if (const std::string scenario = test_word("scenario"); !scenario.empty()) {
      std::_Exit(run_scenario(scenario));
    }
  }
};
[[maybe_unused]] testing::Environment* const scenario_environment =
    testing::AddGlobalTestEnvironment(new Scenario);

struct Exit {
  int code;
  double seconds;
};
std::vector<Exit> exits(const std::string& text) {
  static const std::regex line("exit ([0-9]+) after ([0-9.]+) s");
  std::vector<Exit> all;
  for (std::sregex_iterator it(text.begin(), text.end(), line), end; it != end; ++it) {
    all.push_back({std::stoi((*it)[1]), std::stod((*it)[2])});
  }
  return all;
}

int count(const std::string& text, const std::string& word) {
  int n = 0;
  for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; ++at) {
    ++n;
  }
  return n;
}

class MpiEnds : public testing::TestWithParam<std::string> {
 protected:
  MpirunEnd play(int ranks, const std::string& scenario, int timeout_seconds) {
    return run_ranks(ranks,
                     "path=" + GetParam() + " scenario=" + scenario +
                         " timeout=" + std::to_string(timeout_seconds),
                     "Watch.*");
  }
};
INSTANTIATE_TEST_SUITE_P(Mpi, MpiEnds, testing::Values("window", "network"), [](const auto& path) {
  return path.param;
});

TEST_P(MpiEnds, SleepingRankIsNamed) {
  NEEDS_MPIRUN();
  const MpirunEnd end = play(3, "sleep", 1);
  EXPECT_EQ(end.exit_code, 7) << end.text;
  EXPECT_GE(count(end.text, "waited 1 s for rank 1 (host "), 1) << end.text;
  EXPECT_GE(count(end.text, "parallel.timeout"), 1) << end.text;
  const std::vector<Exit> ended = exits(end.text);
  ASSERT_FALSE(ended.empty()) << end.text;
  for (const Exit& e : ended) {
    EXPECT_EQ(e.code, 7) << end.text;
    EXPECT_LT(e.seconds, 3.0) << end.text;
  }
}

TEST_P(MpiEnds, KilledRankIsNoticed) {
  NEEDS_MPIRUN();
  const MpirunEnd end = play(3, "killed", 60);
  EXPECT_NE(end.exit_code, 0) << end.text;
  EXPECT_GE(count(end.text, "needs rank 1 (host "), 1) << end.text;
  EXPECT_GE(count(end.text, "whose process has ended"), 1) << end.text;
  const std::vector<Exit> ended = exits(end.text);
  EXPECT_EQ(ended.size(), 2U) << end.text;
  for (const Exit& e : ended) {
    EXPECT_EQ(e.code, 7) << end.text;
    EXPECT_LT(e.seconds, 3.0) << end.text;
  }
}

TEST_P(MpiEnds, AbortEndsAllWithItsCode) {
  NEEDS_MPIRUN();
  const MpirunEnd end = play(3, "abort", 60);
  EXPECT_EQ(end.exit_code, 75) << end.text;
  const std::vector<Exit> ended = exits(end.text);
  if (GetParam() == "network") {
    return;  // mpirun ends the others, unless they miss the rank before
  }
  EXPECT_EQ(ended.size(), 2U) << end.text;
  EXPECT_EQ(count(end.text, "ended the run with exit code 75"), 2) << end.text;
  for (const Exit& e : ended) {
    EXPECT_EQ(e.code, 75) << end.text;
  }
}

TEST_P(MpiEnds, RankThatThrowsReleasesItsPeers) {
  NEEDS_MPIRUN();
  const MpirunEnd end = play(3, "throws", 60);
  EXPECT_TRUE(end.exit_code == 6 || end.exit_code == 7) << end.text;
  EXPECT_EQ(count(end.text, "not a number"), 1) << end.text;
  EXPECT_EQ(count(end.text, "exit 6 after"), 1) << end.text;
  for (const Exit& e : exits(end.text)) {
    EXPECT_LT(e.seconds, 5.0) << end.text;
  }
}

TEST_P(MpiEnds, MessageThatNeverComesTimesOut) {
  NEEDS_MPIRUN();
  const MpirunEnd end = play(2, "recv", 1);
  EXPECT_EQ(end.exit_code, 7) << end.text;
  EXPECT_EQ(count(end.text, "recv: rank 0 (host "), 1) << end.text;
  EXPECT_EQ(count(end.text, "waited 1 s for rank 1 (host "), 1) << end.text;
}

TEST(MpiMachine, TooLittleSharedMemoryNamesNeedAndFree) {
  NEEDS_MPIRUN();
  const MpirunEnd end = run_ranks(2, "path=window scenario=none box=1099511627776", "Watch.*");
  EXPECT_EQ(end.exit_code, 8) << end.text;
  EXPECT_GE(count(end.text, "2 ranks need 4194304.0 MiB of shared memory in /dev/shm"), 1)
      << end.text;
  EXPECT_GE(count(end.text, "MiB are free"), 1) << end.text;
}

TEST(MpiOptions, BadValuesAreRefusedBeforeMpiIsEntered) {
  using tests::expect_error;
  expect_error(
      Errc::config, {"timeout", "0"}, [] { make_mpi_communicator({.timeout_seconds = 0}); });
  expect_error(Errc::config, {"limit", "4294967296"}, [] {
    make_mpi_communicator({.message_limit_bytes = std::int64_t{1} << 32});
  });
  expect_error(Errc::config, {"box", "100"}, [] { make_mpi_communicator({.box_bytes = 100}); });
  if (!under_mpi_launcher()) {
    expect_error(Errc::config, {"mpirun"}, [] { make_mpi_communicator(); });
  }
}

}  // namespace
}  // namespace strata::parallel
