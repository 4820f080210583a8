// Real text, two ranks, bf16: what it learns is what f32 learns.
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

struct Learned {
  std::vector<double> validation;  // of the first 64k tokens of the test split, as training went on
  double perplexity = 0;           // of the whole split, at the end
};

Learned learn(const TempDir& dir, const std::string& dtype) {
  const auto test = test_data("text/wikitext-2/test.txt").string();
  const auto run = dir / dtype;
  const CommandEnd end =
      run_command({"train",
                   "--model.preset=tiny-gpt2",
                   "--model.L=4",
                   "--model.C=256",
                   "--model.H=4",
                   "--model.max_T=256",
                   "--data.train=" + test_data("text/wikitext-2/valid.txt").string(),
                   "--data.valid=" + test,
                   "--train.seq_len=256",
                   "--train.batch_tokens=8192",
                   "--train.steps=400",
                   "--train.eval_every=40",
                   "--train.eval_tokens=65536",
                   "--train.schedule.lr=1e-3",
                   "--train.schedule.warmup_steps=40",
                   "--train.dtype=" + dtype,
                   "--checkpoint.every=0",
                   "--run.dir=" + run.string()},
                  {.ranks = 2, .timeout = std::chrono::seconds(1500)});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  Learned learned;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto object = nlohmann::json::parse(line);
    if (object.contains("validation_loss")) {
      learned.validation.push_back(object["validation_loss"].get<double>());
    }
  }
  const CommandEnd eval = run_command({"eval", run.string(), "--data", test, "--json"},
                                      {.timeout = std::chrono::seconds(600)});
  learned.perplexity = nlohmann::json::parse(eval.out)["perplexity"].get<double>();
  return learned;
}

// Bytes stand for the GPT-2 vocabulary until there is a tokenizer for it.
TEST(WikiText, SlowBf16OnTwoRanksLearnsWhatF32Learns) {
  if (mpirun().empty() || test_data("text/wikitext-2/test.txt").empty()) {
    GTEST_SKIP() << "mpirun is not installed, or text/wikitext-2 is not in the test data";
  }
  const TempDir dir;
  const Learned bf16 = learn(dir, "bf16"), f32 = learn(dir, "f32");
  ASSERT_EQ(bf16.validation.size(), 10u);
  for (std::size_t k = 1; k < 5; ++k) {
    EXPECT_LT(bf16.validation[k], bf16.validation[k - 1]);
  }
  EXPECT_NEAR(bf16.perplexity / f32.perplexity, 1.0, 0.03);
}

}  // namespace
}  // namespace strata::tests
