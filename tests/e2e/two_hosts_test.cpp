// Ranks on two hosts, which are namespaces of this machine joined by a network: messages instead of
// shared memory, from start to end.
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using ::testing::HasSubstr;

std::string quoted(const std::string& word) {
  return "'" + word + "'";
}

class TwoHosts : public testing::Test {
 protected:
  struct End {
    int exit_code = -1;
    std::string text;
  };

  void SetUp() override {
    std::ofstream out(dir_ / "text.txt");
    for (int i = 0; i < 3000; ++i) {
      out << "line " << i * i << " of many\n";
    }
    out.close();
    const End end = start({"true"});
    if (end.exit_code == 77) {
      GTEST_SKIP() << end.text;
    }
    ASSERT_EQ(end.exit_code, 0) << end.text;
  }

  /// "train" of a tiny model into the run directory `name`: eight micro-batches a step.
  Words train(const std::string& name, const Words& more) const {
    Words words{"train",
                "--model.preset=tiny-gpt2",
                "--train.seq_len=32",
                "--train.batch_tokens=256",
                "--train.micro_batch=1",
                "--numerics.deterministic=elastic",
                "--data.train=" + (dir_ / "text.txt").string(),
                "--run.dir=" + (dir_ / name).string()};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  /// Starts these words as one rank on each host and waits for both.
  End start(const Words& words) const {
    std::string line = "OMP_NUM_THREADS=1 timeout -k 1 60 '" STRATA_SOURCE_DIR
                       "/tests/support/two_hosts.sh' " +
                       quoted(dir_.path().string());
    for (const std::string& word : words) {
      line += " " + quoted(word);
    }
    fs::remove(dir_ / "nodeb");
    fs::remove(dir_ / "lost");
    const int status =
        std::system((line + " > " + quoted((dir_ / "log").string()) + " 2>&1 < /dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, log()};
  }
  /// The same for words of the program.
  End run(Words words) const {
    words.insert(words.begin(), STRATA_BINARY);
    return start(words);
  }
  std::string log() const {
    std::ostringstream text;
    text << std::ifstream(dir_ / "log").rdbuf();
    return text.str();
  }

  TempDir dir_;
};

const Words kEndless{"--train.steps=1000000", "--checkpoint.every=0", "--parallel.timeout=3"};
// mpirun needs moments to start the ranks and to end them.
constexpr seconds kSoon{30};

TEST_F(TwoHosts, GiveTheBytesOfOneProcess) {
  const CommandEnd alone = run_command(train("alone", {"--train.steps=10"}));
  ASSERT_EQ(alone.exit_code, 0) << alone.text();
  const End end = run(train("both", {"--train.steps=10"}));
  ASSERT_EQ(end.exit_code, 0) << end.text;
  expect_identical(dir_ / "alone", dir_ / "both");
}

TEST_F(TwoHosts, AreDifferentMachinesToTheProgram) {
  const End end = run({"doctor"});
  ASSERT_EQ(end.exit_code, 0) << end.text;
  EXPECT_THAT(end.text, HasSubstr("2 ranks, 1 of them on this machine"));
}

TEST_F(TwoHosts, ALostRankOfTheOtherHostEndsAll) {
  Words words{
      "bash",
      "-c",
      "[ \"$OMPI_COMM_WORLD_RANK\" = 0 ] || export STRATA_KILL_AT=train.step:5; exec \"$@\"",
      "rank",
      STRATA_BINARY};
  const Words more = train("run", kEndless);
  words.insert(words.end(), more.begin(), more.end());
  const auto begin = std::chrono::steady_clock::now();
  const End end = start(words);
  EXPECT_TRUE(end.exit_code == 7 || end.exit_code == 128 + SIGKILL) << end.exit_code << end.text;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kSoon);
}

TEST_F(TwoHosts, ALostHostEndsAll) {
  End end;
  const auto begin = std::chrono::steady_clock::now();
  std::jthread job([&] { end = run(train("run", kEndless)); });
  while (log().find("step ") == std::string::npos &&
         std::chrono::steady_clock::now() - begin < kSoon) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::ofstream(dir_ / "lost") << "now";
  const auto lost = std::chrono::steady_clock::now();
  job.join();
  EXPECT_THAT(end.text, HasSubstr("loss")) << "it was not under way";
  EXPECT_NE(end.exit_code, 0);
  EXPECT_NE(end.exit_code, 124) << end.text;
  EXPECT_LT(std::chrono::steady_clock::now() - lost, kSoon);
}

}  // namespace
}  // namespace strata::tests
