// Whole runs of the program: bits under orders, threads and kills; memory as planned; published
// results.
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <iterator>
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

using Environment = std::vector<std::pair<std::string, std::string>>;

Words join(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Text with structure, so that a loss can fall and gradients are not noise.
std::filesystem::path write_text(const TempDir& dir) {
  std::string text;
  std::mt19937 random(7);
  const char* words[] = {
      "stone ", "layer ", "river ", "under ", "over ", "bends ", "rests ", "the "};
  while (text.size() < 60000) {
    text += words[random() % 8];
    text += random() % 9 == 0 ? ".\n" : "";
  }
  std::ofstream(dir / "text.txt") << text;
  return dir / "text.txt";
}

nlohmann::json last_object(const std::string& out) {
  const auto begin = out.rfind('\n', out.size() - 2);
  return nlohmann::json::parse(out.substr(begin == std::string::npos ? 0 : begin + 1));
}

/// Runs to exit code 0.
CommandEnd must_run(const Words& words, const Environment& environment = {}) {
  CommandEnd end =
      run_command(words, {.environment = environment, .timeout = std::chrono::seconds(900)});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  return end;
}

nlohmann::json must_tell(const Words& words) {
  return last_object(must_run(join(words, {"--json"})).out);
}

std::vector<nlohmann::json> metrics(const std::filesystem::path& run) {
  std::vector<nlohmann::json> all;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    all.push_back(nlohmann::json::parse(line));
  }
  return all;
}

/// A step of four micro-batches with dropout.
Words dropout_run(const std::string& preset, const std::filesystem::path& text, int steps) {
  return {"train",
          "--model.preset=" + preset,
          "--model.dropout=0.1",
          "--data.train=" + text.string(),
          "--train.steps=" + std::to_string(steps),
          "--train.seq_len=32",
          "--train.batch_tokens=256",
          "--train.micro_batch=2",
          "--train.schedule.lr=3e-3"};
}

/// The same with a model small enough for hundreds of steps.
Words small_run(const std::string& preset, const std::filesystem::path& text, int steps) {
  return join(dropout_run(preset, text, steps), {"--model.L=2", "--model.C=32"});
}

std::string run_dir(const std::filesystem::path& path) {
  return "--run.dir=" + path.string();
}

TEST(Bits, OrdersThreadsAndUpdateModesAgree) {
  const TempDir dir;
  const auto text = write_text(dir);
  for (const auto& [preset, clip] :
       {std::pair<std::string, std::string>{"tiny-gpt2", "1.2"}, {"tiny-llama", "1.2"}}) {
    const Words base = join(dropout_run(preset, text, 30), {"--optim.clip=" + clip});
    const auto run = [&](const std::string& name, const Words& more) {
      const auto path = dir / (preset + name);
      must_run(join(join(base, more), {run_dir(path)}));
      return path;
    };
    const auto reference = run("-reference", {"--threads=1"});
    int clipped = 0;
    for (const auto& step : metrics(reference)) {
      clipped += step["clipped"].get<bool>();
    }
    EXPECT_GT(clipped, 0);
    EXPECT_LT(clipped, 30);
    expect_identical(reference, run("-threads2", {"--threads=2"}));
    expect_identical(reference, run("-threads3", {"--threads=3"}));
    expect_identical(reference, run("-layer1", {"--threads=1", "--train.order=layer-major"}));
    expect_identical(reference, run("-layer3", {"--threads=3", "--train.order=layer-major"}));
    expect_identical(
        reference,
        run("-speculative",
            {"--threads=2", "--train.order=layer-major", "--numerics.update=speculative"}));
    const auto other = run("-seed", {"--train.seed=2"});
    const auto object = must_tell({"inspect", "diff", reference.string(), other.string()});
    EXPECT_FALSE(object["identical"].get<bool>()) << "the comparison cannot fail";
  }
}

TEST(Bits, Bf16WithMasterWeightsAgreesOverOrdersAndResume) {
  const TempDir dir;
  const auto text = write_text(dir);
  const Words base = join(small_run("tiny-llama", text, 12), {"--train.dtype=bf16"});
  must_run(join(base, {run_dir(dir / "a"), "--threads=1"}));
  must_run(join(base, {run_dir(dir / "b"), "--threads=3", "--train.order=layer-major"}));
  expect_identical(dir / "a", dir / "b");
  const Words interrupted = join(base, {run_dir(dir / "c"), "--checkpoint.every=5"});
  const auto killed =
      run_command(interrupted, {.environment = {{"STRATA_KILL_AT", "train.step:7"}}});
  EXPECT_EQ(killed.signal, SIGKILL) << killed.text();
  must_run(join(interrupted, {"--resume=auto"}));
  expect_identical(dir / "a", dir / "c");
}

/// Runs to step 200 that are killed once, every other one inside a save, and then resumed: each
/// must end with the bytes of a run that was left alone.
class KilledRuns {
 public:
  explicit KilledRuns(unsigned seed) : random_(seed), base_(base()) {
    const auto start = std::chrono::steady_clock::now();
    must_run(join(base_, {run_dir(dir_ / "straight")}));
    whole_ = std::chrono::steady_clock::now() - start;
  }

  void compare(int run) {
    const auto path = dir_ / ("killed" + std::to_string(run));
    const Words words = join(base_, {run_dir(path), "--resume=auto"});
    run % 2 == 0 ? kill_in_save(words) : kill_at_random(words, path);
    must_run(words);
    expect_identical(dir_ / "straight", path);
  }

 private:
  Words base() const {
    return join(small_run("tiny-gpt2", write_text(dir_), 200),
                {"--checkpoint.every=10", "--threads=1"});
  }

  void kill_in_save(const Words& words) {
    const char* points[] = {"ckpt.stage.created",
                            "ckpt.data.opened",
                            "ckpt.data.written",
                            "ckpt.manifest.written",
                            "ckpt.renamed",
                            "ckpt.committed",
                            "ckpt.retention.renamed"};
    const std::string point = points[random_() % std::size(points)];
    const std::string nth = std::to_string(1 + random_() % 15);
    const auto end = run_command(words, {.environment = {{"STRATA_KILL_AT", point + ":" + nth}}});
    EXPECT_EQ(end.signal, SIGKILL) << point << ":" << nth << " " << end.text();
  }

  /// A machine that is faster now than it was may be through before the moment comes: then an
  /// earlier one.
  void kill_at_random(const Words& words, const std::filesystem::path& path) {
    auto moment = whole_ * (0.1 + 0.7 * static_cast<double>(random_() % 1000) / 1000.0);
    for (;;) {
      Command command(words);
      std::this_thread::sleep_for(moment);
      command.signal(SIGKILL);
      const CommandEnd end = command.wait();
      if (end.signal == SIGKILL) {
        return;
      }
      ASSERT_EQ(end.exit_code, 0) << end.text();
      std::filesystem::remove_all(path);
      moment /= 2;
    }
  }

  TempDir dir_;
  std::mt19937 random_;
  Words base_;
  std::chrono::duration<double> whole_{};
};

TEST(Kill, FourRunsResumeToTheSameBytes) {
  KilledRuns runs(1);
  for (int run = 0; run < 4; ++run) {
    runs.compare(run);
  }
}

TEST(Kill, SlowSixteenRunsResumeToTheSameBytes) {
  KilledRuns runs(2);
  for (int run = 0; run < 16; ++run) {
    runs.compare(run);
  }
}

TEST(Memory, LedgerAndResidentSetAreAsPlanned) {
  const TempDir dir;
  const auto text = write_text(dir);
  const Words shapes[] = {
      {"--model.preset=tiny-llama", "--model.C=256", "--model.F=1024"},
      {"--model.preset=tiny-gpt2", "--model.C=384", "--model.L=6", "--train.order=layer-major"}};
  for (const Words& shape : shapes) {
    const Words settings = join(shape,
                                {"--data.train=" + text.string(),
                                 "--train.seq_len=128",
                                 "--train.batch_tokens=2048",
                                 "--train.steps=3"});
    const auto plan = must_tell(join({"plan"}, settings));
    ASSERT_TRUE(plan["fits"].get<bool>());
    const auto end = must_tell(join(join({"train"}, settings), {run_dir(dir / shape[0])}));
    const double ledger = end["ledger_peak_bytes"].get<double>();
    EXPECT_NEAR(ledger / plan["peak_bytes"].get<double>(), 1.0, 0.02);
    EXPECT_LE(end["resident_peak_bytes"].get<double>(), 1.05 * ledger + 60e6);
  }
}

TEST(Stories260K, ImportsEvaluatesAndGeneratesThePublishedText) {
  const auto weights = test_data("weights/stories260K/stories260K.bin");
  const auto sample = test_data("text/tinystories_sample.txt");
  if (weights.empty() || sample.empty()) {
    GTEST_SKIP() << "weights/stories260K and text/tinystories_sample.txt are not in the test data";
  }
  const TempDir dir;
  const auto beside = [&](const char* name) { return weights.parent_path() / name; };
  const std::string model = (dir / "model").string();
  must_run({"import",
            "llama2c",
            weights.string(),
            "--tokenizer",
            beside("tok512.bin").string(),
            "-o",
            model});
  std::ifstream greedy(beside("greedy_200.json"));
  const auto published = nlohmann::json::parse(greedy);
  const auto made =
      must_tell({"generate", model, "--prompt", "", "--max-tokens", "200", "--temperature", "0"});
  EXPECT_EQ(made["ids"], published["ids"]);
  EXPECT_EQ(made["text"], published["text"]);

  // The first 256 ids of the sample's first story, BOS included, are its first 496 bytes.
  std::ifstream in(sample);
  const std::string story((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::ofstream(dir / "story.txt") << story.substr(story.find_first_not_of('\n'), 496);
  std::ifstream own(beside("own_loss_check.json"));
  const auto check = nlohmann::json::parse(own);
  const auto loss = must_tell({"eval", model, "--data", (dir / "story.txt").string()});
  EXPECT_EQ(loss["tokens"].get<int>(), 255);
  EXPECT_NEAR(loss["loss"].get<double>(), check["mean_nll_over_255_targets"].get<double>(), 1e-5);
}

// The README of nanoGPT gives 1.88: the best of several estimates over 20 random batches each. Over
// the whole validation split PyTorch 2.5.1 with the same settings ends at 1.893, 1.897 and 1.912
// (seeds 2, 1, 3).
// (tests/bench/peers/torch_char.py).
TEST(Macbook, SlowCharacterModelLearnsAsItsOriginalDoes) {
  const auto text = test_data("text/tinyshakespeare.txt");
  if (text.empty()) {
    GTEST_SKIP() << "text/tinyshakespeare.txt is not in the test data";
  }
  const TempDir dir;
  // nanoGPT, config/train_shakespeare_char.py with the README's CPU changes.
  const auto end = must_tell({"train",
                              "--model.preset=tiny-gpt2",
                              "--model.L=4",
                              "--model.H=4",
                              "--model.C=128",
                              "--model.max_T=64",
                              "--model.bias=false",
                              "--model.dropout=0",
                              "--data.train=" + text.string(),
                              "--data.valid=0.1",
                              "--data.tokenizer=chars",
                              "--train.steps=2000",
                              "--train.seq_len=64",
                              "--train.batch_tokens=768",
                              "--train.schedule.lr=1e-3",
                              "--train.schedule.warmup_steps=100",
                              "--train.eval_every=1000",
                              "--optim.method=adamw",
                              "--optim.beta2=0.99",
                              "--optim.weight_decay=0.1",
                              "--optim.clip=1",
                              "--checkpoint.every=0",
                              run_dir(dir / "run")});
  EXPECT_LE(end["validation_loss"].get<double>(), 1.92);
}

TEST(Help, NamesEveryCommand) {
  const auto end = must_run({"--help"});
  EXPECT_NE(end.out.find("usage: strata COMMAND"), std::string::npos);
  for (const char* command :
       {"train", "resume", "plan", "eval", "generate", "import", "inspect", "doctor", "demo"}) {
    EXPECT_NE(end.out.find(command), std::string::npos);
    EXPECT_NE(must_run({command, "--help"}).out, "") << command;
  }
}

}  // namespace
}  // namespace strata::tests
