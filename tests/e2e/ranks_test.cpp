// Several ranks under mpirun: one set of bits whatever their number, and what happens when one is
// lost, stopped, or not needed.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

class Ranks : public testing::Test {
 protected:
  void SetUp() override {
    if (mpirun().empty()) {
      GTEST_SKIP() << "mpirun is not installed";
    }
    std::mt19937 random(7);
    const char* words[] = {
        "stone ", "layer ", "river ", "under ", "over ", "bends ", "rests ", "the "};
    std::string text;
    while (text.size() < 60000) {
      text += words[random() % 8];
    }
    std::ofstream(dir_ / "text.txt") << text;
  }

  /// Eight micro-batches a step, so that three ranks have unequal shares; some steps clip. A
  /// setting of `more` replaces ours.
  Words train(const std::string& name, const Words& more = {}) const {
    const auto key = [](const std::string& word) { return word.substr(0, word.find('=')); };
    Words words{"train"};
    for (const std::string& word : Words{"--model.dropout=0.1",
                                         "--optim.clip=1.2",
                                         "--train.seq_len=32",
                                         "--train.batch_tokens=256",
                                         "--train.micro_batch=1",
                                         "--train.schedule.lr=3e-3",
                                         "--checkpoint.every=10",
                                         "--data.train=" + (dir_ / "text.txt").string(),
                                         "--run.dir=" + (dir_ / name).string()}) {
      if (std::ranges::none_of(more, [&](const auto& other) { return key(other) == key(word); })) {
        words.push_back(word);
      }
    }
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  fs::path run(const std::string& name, int ranks, const Words& more) const {
    const CommandEnd end =
        run_command(train(name, more), {.ranks = ranks, .timeout = seconds(300)});
    EXPECT_EQ(end.exit_code, 0) << end.text();
    return dir_ / name;
  }

  TempDir dir_;
};

const Words kElastic = {"--numerics.deterministic=elastic"};

Words join(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A way to place the same computation.
struct Placing {
  int ranks;
  std::string zero, order, threads;
  std::string name() const {
    return std::to_string(ranks) + "-zero" + zero + "-" + order + "-" + threads;
  }
  Words words() const {
    return {"--parallel.zero=" + zero, "--train.order=" + order, "--threads=" + threads};
  }
};

class Elastic : public Ranks {
 protected:
  void compare(const std::string& preset, int steps, const std::vector<Placing>& placings) {
    const Words base = join(kElastic,
                            {"--model.preset=" + preset,
                             "--train.steps=" + std::to_string(steps),
                             "--data.valid=0.1",
                             "--train.eval_every=20"});
    const auto reference = run(preset, 0, join(base, {"--threads=1"}));
    for (const Placing& p : placings) {
      SCOPED_TRACE(p.name());
      const auto other = run(preset + p.name(), p.ranks, join(base, p.words()));
      expect_identical(reference, other);
      EXPECT_EQ(validation_losses(other), validation_losses(reference));
    }
  }

  static std::vector<double> validation_losses(const fs::path& run) {
    std::vector<double> losses;
    std::ifstream in(run / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto object = nlohmann::json::parse(line);
      if (object.contains("validation_loss")) {
        losses.push_back(object["validation_loss"].get<double>());
      }
    }
    return losses;
  }
};

TEST_F(Elastic, WorldSizesAndPlacementsGiveOneSetOfBytes) {
  compare("tiny-gpt2",
          20,
          {{2, "1", "layer-major", "1"},
           {3, "0", "micro-batch-major", "1"},
           {4, "1", "micro-batch-major", "1"}});
  compare("tiny-llama", 20, {{2, "0", "layer-major", "2"}, {3, "1", "layer-major", "1"}});
}

TEST_F(Elastic, SlowEveryWorldPlacementAndThreadCountGivesOneSetOfBytes) {
  std::vector<Placing> all;
  for (const int ranks : {1, 2, 3, 4}) {
    for (const char* zero : {"0", "1"}) {
      for (const char* order : {"micro-batch-major", "layer-major"}) {
        for (const char* threads : {"1", "2"}) {
          all.push_back({ranks, zero, order, threads});
        }
      }
    }
  }
  compare("tiny-gpt2", 50, all);
  compare("tiny-llama", 50, all);
}

TEST_F(Elastic, MasterWeightsOfBf16AreShardedToo) {
  const Words base =
      join(kElastic, {"--model.preset=tiny-llama", "--train.dtype=bf16", "--train.steps=12"});
  const auto reference = run("one", 0, base);
  expect_identical(reference, run("three", 3, base));
}

TEST_F(Elastic, OneModelOverTheNetworkPath) {
  const Words base = join(kElastic, {"--model.preset=tiny-gpt2", "--train.steps=10"});
  const auto reference = run("one", 0, base);
  const CommandEnd end = run_command(train("network", base),
                                     {.environment = {{"STRATA_COMM", "network"}}, .ranks = 3});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  expect_identical(reference, dir_ / "network");
}

TEST_F(Ranks, RunsRepeatAndZeroIsDataParallel) {
  for (const int ranks : {2, 3}) {
    const std::string n = std::to_string(ranks);
    const Words base = {"--model.preset=tiny-gpt2", "--train.steps=20"};
    const auto first = run("first" + n, ranks, join(base, {"--parallel.zero=1"}));
    expect_identical(first, run("again" + n, ranks, join(base, {"--parallel.zero=1"})));
    expect_identical(first, run("all" + n, ranks, join(base, {"--parallel.zero=0"})));
  }
}

TEST_F(Ranks, ACheckpointOfThreeGoesOnWithAnyNumber) {
  const Words base = join(kElastic, {"--model.preset=tiny-llama", "--train.steps=30"});
  const auto straight = run("straight", 0, base);
  for (const int ranks : {1, 2, 4}) {
    SCOPED_TRACE(ranks);
    const std::string name = "resumed" + std::to_string(ranks);
    const CommandEnd killed = run_command(
        train(name, base), {.environment = {{"STRATA_KILL_AT", "train.step:15"}}, .ranks = 3});
    EXPECT_NE(killed.exit_code, 0) << killed.text();
    run(name, ranks, join(base, {"--resume=auto"}));
    expect_identical(straight, dir_ / name);
  }
}

/// Bytes of a rank with N of them, f32, AdamW (specification B1): weights and gradients whole, two
/// moments of the rank's shards. Tensors begin at multiples of 64 bytes and packs end at pages.
void expect_zero_1(const nlohmann::json& ranks, double parameters, double packs, double tensors) {
  const auto N = static_cast<double>(ranks.size());
  const double slack = packs * 4096 + tensors * 64;
  double state = 0;
  for (const auto& rank : ranks) {
    EXPECT_NEAR(rank["weights_bytes"].get<double>(), 4 * parameters, slack);
    EXPECT_NEAR(rank["grads_bytes"].get<double>(), 4 * parameters, slack);
    // Cuts are multiples of 4096 elements, of 8 bytes here.
    EXPECT_NEAR(rank["state_bytes"].get<double>(), 8 * parameters / N, slack + 2 * 4096 * 8);
    state += rank["state_bytes"].get<double>();
  }
  EXPECT_NEAR(state, 8 * parameters, N * slack);
}

TEST_F(Ranks, ZeroDividesTheStateAndNothingElse) {
  for (const int ranks : {2, 4}) {
    const CommandEnd end = run_command(
        train("run" + std::to_string(ranks),
              {"--model.preset=tiny-llama", "--train.steps=1", "--model.C=256", "--json"}),
        {.ranks = ranks});
    ASSERT_EQ(end.exit_code, 0) << end.text();
    const auto object = nlohmann::json::parse(end.out);
    const CommandEnd plan = run_command({"plan",
                                         "--model.preset=tiny-llama",
                                         "--model.C=256",
                                         "--train.seq_len=32",
                                         "--train.batch_tokens=256",
                                         "--train.micro_batch=1",
                                         "--ranks",
                                         std::to_string(ranks),
                                         "--json"});
    const auto planned = nlohmann::json::parse(plan.out);
    ASSERT_EQ(object["model_by_rank"].size(), static_cast<std::size_t>(ranks));
    expect_zero_1(object["model_by_rank"], planned["parameters"].get<double>(), 6, 60);
    for (std::size_t r = 0; r < static_cast<std::size_t>(ranks); ++r) {
      EXPECT_EQ(object["model_by_rank"][r]["state_bytes"], planned["ranks"][r]["state_bytes"]);
    }
  }
}

TEST_F(Ranks, PlansTellOfOtherPlacingsAndOfEveryRank) {
  const Words base = {"plan",
                      "--model.preset=tiny-gpt2",
                      "--train.seq_len=32",
                      "--train.batch_tokens=256",
                      "--train.micro_batch=1",
                      "--ranks=3"};
  const auto plan = [&](const Words& more) {
    const CommandEnd end = run_command(join(base, join(more, {"--json"})));
    EXPECT_EQ(end.exit_code, 0) << end.text();
    return nlohmann::json::parse(end.out);
  };
  const auto told = plan({});
  ASSERT_EQ(told["ranks"].size(), 3u);
  EXPECT_EQ(told["ranks"][0]["micro_batches"], 2);
  EXPECT_EQ(told["ranks"][1]["micro_batches"], 3);
  ASSERT_EQ(told["placements"].size(), 4u);
  for (const auto& option : told["placements"]) {  // each is what a plan with it says
    const auto other = plan({"--" + option["setting"].get<std::string>()});
    EXPECT_EQ(other["peak_bytes"], option["peak_bytes"]) << option;
    EXPECT_EQ(option["saved_bytes"].get<std::int64_t>(),
              told["peak_bytes"].get<std::int64_t>() - other["peak_bytes"].get<std::int64_t>());
  }
  const CommandEnd text = run_command(join(base, {"--explain"}));
  EXPECT_NE(text.out.find("parallel.zero=0"), std::string::npos) << text.out;
  expect_refused(run_command({"plan", "--ranks=0"}), 2, {"--ranks", "1 to 4096", "'0'"});
}

TEST_F(Ranks, SlowZeroDividesTheStateOfGpt2) {
  for (const int ranks : {2, 4}) {
    const std::string name = "run" + std::to_string(ranks);
    const CommandEnd end = run_command(
        train(
            name,
            {"--model.preset=gpt2-124m", "--train.steps=1", "--train.batch_tokens=128", "--json"}),
        {.ranks = ranks, .timeout = seconds(600)});
    ASSERT_EQ(end.exit_code, 0) << end.text();
    expect_zero_1(nlohmann::json::parse(end.out)["model_by_rank"], 124439808, 14, 148);
    fs::remove_all(dir_ / name);
  }
}

/// Kills one rank of two at some moment and resumes.
class LostRank : public Ranks {
 protected:
  void lose(int runs, unsigned seed) {
    const Words base = {"--model.preset=tiny-gpt2",
                        "--model.L=2",
                        "--model.C=32",
                        "--train.steps=150",
                        "--resume=auto",
                        "--checkpoint.every=5"};
    const auto start = std::chrono::steady_clock::now();
    const auto straight = run("straight", 2, base);
    const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - start;
    std::mt19937 random(seed);
    for (int k = 0; k < runs; ++k) {
      const std::string name = "lost" + std::to_string(k);
      for (auto moment = whole * (0.1 + 0.7 * static_cast<double>(random() % 1000) / 1000.0);;
           moment /= 2) {
        if (lost_after(moment, train(name, base), random() % 2)) {
          break;
        }
        fs::remove_all(dir_ / name);  // it was through before the moment came
      }
      run(name, 2, base);
      expect_identical(straight, dir_ / name);
    }
  }

 private:
  static bool lost_after(std::chrono::duration<double> moment,
                         const Words& words,
                         unsigned victim) {
    Command command(words, {.ranks = 2});
    std::this_thread::sleep_for(moment);
    const std::vector<pid_t> ranks = command.children();
    if (ranks.size() == 2) {
      kill(ranks[victim], SIGKILL);
    }
    const auto killed = std::chrono::steady_clock::now();
    const CommandEnd end = command.wait();
    if (ranks.size() == 2 && end.exit_code != 0) {
      EXPECT_LT(std::chrono::steady_clock::now() - killed, seconds(10)) << end.text();
      EXPECT_TRUE(end.exit_code == 7 || end.exit_code == 128 + SIGKILL) << end.text();
      return true;
    }
    return false;
  }
};

TEST_F(LostRank, EndsAllAndResumesToTheSameBytes) {
  lose(4, 1);
}
TEST_F(LostRank, SlowSixteenMoreResumeToTheSameBytes) {
  lose(16, 2);
}

TEST_F(Ranks, ARankThatStandsStillIsNamed) {
  Command command(
      train("run", {"--model.preset=tiny-gpt2", "--train.steps=100000", "--parallel.timeout=2"}),
      {.ranks = 2});
  ASSERT_TRUE(command.wait_for_err(" 3/"));
  const std::vector<pid_t> ranks = command.children();
  ASSERT_EQ(ranks.size(), 2u);
  kill(ranks[1], SIGSTOP);
  const CommandEnd end = command.wait();
  EXPECT_EQ(end.exit_code, 7) << end.text();
  EXPECT_NE(end.err.find("rank 1"), std::string::npos) << end.text();
  EXPECT_NE(end.err.find("parallel.timeout"), std::string::npos) << end.text();
}

/// SIGUSR1 reaches the ranks at once. SIGTERM reaches them odls_base_sigkill_timeout seconds after
/// mpirun has it; as many later they are killed, and mpirun has an exit code of its own.
class SignalledRanks : public Ranks, public testing::WithParamInterface<int> {};

TEST_P(SignalledRanks, SaveTogetherAndGoOn) {
  const bool terminated = GetParam() == SIGTERM;
  const Words base = join(kElastic,
                          {"--model.preset=tiny-gpt2",
                           "--model.L=2",
                           "--model.C=32",
                           "--train.schedule.kind=constant",
                           "--checkpoint.every=0"});
  Command command(
      train("stopped", join(base, {"--train.steps=1000000"})),
      {.ranks = 2,
       .launcher = terminated ? Words{"--mca", "odls_base_sigkill_timeout", "3"} : Words{}});
  ASSERT_TRUE(command.wait_for_err(" 3/"));
  command.signal(GetParam());
  const CommandEnd end = command.wait();
  EXPECT_EQ(end.exit_code, terminated ? 1 : 75) << end.text();
  const std::string stopped = "stopped at step ";
  const auto at = end.err.find(stopped);
  ASSERT_NE(at, std::string::npos) << end.text();
  const int more = std::stoi(end.err.substr(at + stopped.size())) + 10;
  const Words to_the_end = join(base, {"--train.steps=" + std::to_string(more)});
  run("stopped", 2, join(to_the_end, {"--resume=auto"}));
  expect_identical(run("straight", 0, to_the_end), dir_ / "stopped");
}
INSTANTIATE_TEST_SUITE_P(Signals, SignalledRanks, testing::Values(SIGUSR1, SIGTERM));

TEST_F(Ranks, MoreRanksThanMicroBatchesAreRefusedOnce) {
  const CommandEnd end = run_command(
      train("run", {"--model.preset=tiny-gpt2", "--train.micro_batch=4"}), {.ranks = 3});
  EXPECT_EQ(end.exit_code, 2) << end.text();
  const auto first = end.err.find("2 micro-batches for 3 ranks");
  EXPECT_NE(first, std::string::npos) << end.text();
  EXPECT_EQ(end.err.find("2 micro-batches for 3 ranks", first + 1), std::string::npos)
      << end.text();
  EXPECT_FALSE(fs::exists(dir_ / "run"));
}

TEST_F(Ranks, AUsedDirectoryIsRefusedByAll) {
  run("run", 0, {"--model.preset=tiny-gpt2", "--train.steps=2"});
  const CommandEnd end =
      run_command(train("run", {"--model.preset=tiny-gpt2", "--train.steps=2"}), {.ranks = 2});
  EXPECT_EQ(end.exit_code, 2) << end.text();
  EXPECT_NE(end.err.find("holds an earlier run"), std::string::npos) << end.text();
}

TEST_F(Ranks, CommandsForOneProcessRefuseSeveralOnce) {
  for (const Words& words : {Words{"demo"},
                             Words{"eval", "nothing"},
                             Words{"plan", "--model.preset=tiny-gpt2"},
                             Words{"bench", "attention"}}) {
    const CommandEnd end = run_command(words, {.ranks = 2});
    EXPECT_EQ(end.exit_code, 2) << end.text();
    EXPECT_EQ(end.out, "");
    const auto first = end.err.find("is made for one process, got 2 ranks");
    ASSERT_NE(first, std::string::npos) << end.text();
    EXPECT_EQ(end.err.find("is made for one process", first + 1), std::string::npos) << end.text();
  }
  const CommandEnd alone = run_command({"config", "schema"}, {.ranks = 1});
  EXPECT_EQ(alone.exit_code, 0) << alone.text();
}

}  // namespace
}  // namespace strata::tests
