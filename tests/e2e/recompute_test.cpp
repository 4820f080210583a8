// memory.recompute: no bit of a run depends on it; plans explain it, and refusals name what fits.
#include <algorithm>
#include <regex>
#include <span>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

using nlohmann::json;

class Recompute : public testing::Test {
 protected:
  /// Three decoder blocks, four micro-batches, dropout.
  Words words(const std::string& command, const std::string& name, const Words& more) const {
    Words all = more;
    for (const char* word : {"--model.L=3",
                             "--model.dropout=0.1",
                             "--train.micro_batch=1",
                             "--train.steps=3",
                             "--checkpoint.every=0",
                             "--data.valid=0.1",
                             "--train.eval_tokens=64"}) {
      const std::string key(word, std::string_view(word).find('=') + 1);
      if (std::ranges::none_of(more, [&](const auto& o) { return o.starts_with(key); })) {
        all.emplace_back(word);
      }
    }
    Words words = runs_.train(name, all);
    words.front() = command;
    return words;
  }
  std::filesystem::path train(const std::string& name, const Words& more) const {
    const CommandEnd end = run_command(words("train", name, more));
    EXPECT_EQ(end.exit_code, 0) << end.text();
    return runs_ / name;
  }
  json plan(Words more, int exit_code = 0) const {
    more.emplace_back("--json");
    const CommandEnd end = run_command(words("plan", "plan", more));
    EXPECT_EQ(end.exit_code, exit_code) << end.text();
    return json::parse(end.out);
  }
  std::int64_t reserved(const Words& more) const {
    return plan(more)["tiers"]["device"]["reserved_bytes"].get<std::int64_t>();
  }
  /// Plans that are refused: the flags that the message offers, each tried.
  std::vector<std::string> offered(const Words& more) const {
    const CommandEnd end = run_command(words("plan", "plan", more));
    EXPECT_EQ(end.exit_code, 3) << end.text();
    EXPECT_EQ(std::ranges::count(end.err, '\n'), 1) << end.text();
    std::vector<std::string> flags;
    static const std::regex flag("--[a-z_.]+=[^ ]+");
    for (std::sregex_iterator at(end.err.begin(), end.err.end(), flag), last; at != last; ++at) {
      flags.push_back(at->str());
      Words changed = more;
      const std::string key = flags.back().substr(0, flags.back().find('=') + 1);
      std::erase_if(changed, [&](const auto& word) { return word.starts_with(key); });
      changed.push_back(flags.back());
      EXPECT_TRUE(plan(changed)["fits"].get<bool>()) << flags.back() << ": " << end.err;
    }
    return flags;
  }

  TinyRuns runs_;
};

TEST_F(Recompute, NeverChangesABit) {
  for (const char* preset : {"tiny-gpt2", "tiny-llama"}) {
    for (const char* dtype : {"f32", "bf16"}) {
      const Words base{std::string("--model.preset=") + preset,
                       std::string("--train.dtype=") + dtype};
      const std::string name = std::string(preset) + dtype;
      Words plain = base;
      plain.emplace_back("--memory.recompute=none");
      const auto reference = train(name, plain);
      for (const char* order : {"micro-batch-major", "layer-major"}) {
        for (const char* how :
             {"elementwise", "mlp", "projections", "block", "0:block,1:elementwise,2:mlp"}) {
          Words more = base;
          more.push_back(std::string("--train.order=") + order);
          more.push_back(std::string("--memory.recompute=") + how);
          expect_identical(reference, train(name + order + how, more));
        }
      }
    }
  }
}

TEST_F(Recompute, AutoKeepsWhatFitsElseRedoesTheLeastAndTrainsToTheSameBytes) {
  const Words base{"--train.order=layer-major"};
  const auto with = [&](const Words& more) {
    Words all = base;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT_EQ(plan(base)["recompute"]["in_use"], "none");
  const std::int64_t none = reserved(with({"--memory.recompute=none"}));
  const std::int64_t elementwise = reserved(with({"--memory.recompute=elementwise"}));
  const std::int64_t block = reserved(with({"--memory.recompute=block"}));
  ASSERT_LT(elementwise, none);
  ASSERT_LT(block, elementwise);
  const auto limited = [&](std::int64_t budget) {
    return with({"--memory.device=" + std::to_string(budget)});
  };
  EXPECT_EQ(plan(limited(none))["recompute"]["in_use"], "none");
  EXPECT_EQ(plan(limited(elementwise))["recompute"]["in_use"], "elementwise");
  EXPECT_EQ(plan(limited(none - 1))["recompute"]["in_use"], "0:elementwise");
  const json tight = plan(limited(elementwise - 1));
  EXPECT_TRUE(tight["recompute"]["in_use"].get<std::string>().starts_with("0:block")) << tight;
  const auto reference = train("free", base);
  for (const std::int64_t budget : {none - 1, elementwise - 1, block}) {
    const CommandEnd end =
        run_command(words("train", "in" + std::to_string(budget), limited(budget)));
    EXPECT_EQ(end.exit_code, 0) << end.text();
    EXPECT_NE(end.err.find("(100.0 % of the plan)"), std::string::npos) << end.err;
    expect_identical(reference, runs_ / ("in" + std::to_string(budget)));
  }
  EXPECT_EQ(reserved(with({"--memory.device=minimum"})), block);
}

TEST_F(Recompute, PlansExplainEachOptionAndPhase) {
  const Words choice{"--memory.recompute=0-1:block", "--train.order=layer-major"};
  const json p = plan(choice);
  const json& device = p["tiers"]["device"];
  std::int64_t fullest = 0;
  for (const char* phase : {"forward", "backward", "update", "snapshot", "evaluation"}) {
    const json& at = device["phases"].at(phase);
    std::int64_t sum = 0;
    for (const auto& [label, bytes] : at["labels"].items()) {
      sum += bytes.get<std::int64_t>();
    }
    EXPECT_EQ(at["peak_bytes"], sum) << phase;
    fullest = std::max(fullest, sum);
  }
  EXPECT_EQ(device["peak_bytes"], fullest);
  EXPECT_FALSE(device["phases"]["evaluation"]["labels"].contains("saved"));
  const json& options = p["recompute"]["options"];
  ASSERT_EQ(options.size(), 6u);
  const std::int64_t most = options[0]["peak_bytes"].get<std::int64_t>();
  std::vector<double> percent;
  for (const json& o : options) {
    EXPECT_EQ(o["saved_bytes"].get<std::int64_t>(), most - o["peak_bytes"].get<std::int64_t>());
    EXPECT_EQ(o["in_use"].get<bool>(), o["recompute"] == "0-1:block");
    percent.push_back(o["extra_percent"].get<double>());
    const Words alone{"--memory.recompute=" + o["recompute"].get<std::string>(),
                      "--train.order=layer-major"};
    EXPECT_EQ(reserved(alone), o["reserved_bytes"].get<std::int64_t>()) << o;
  }
  EXPECT_EQ(percent[0], 0);
  EXPECT_GT(percent[1], 0);
  EXPECT_TRUE(std::ranges::is_sorted(std::span(percent).first(5)));  // each redoes more
  EXPECT_LT(percent[4], 100.0 / 3);  // less than the forward of a step
  EXPECT_NEAR(percent[5], percent[4] * 2 / 3, 1e-9);
  Words explained = choice;
  explained.emplace_back("--explain");
  const CommandEnd end = run_command(words("plan", "plan", explained));
  EXPECT_EQ(end.exit_code, 0) << end.text();
  for (const char* part : {"elementwise", "0-1:block", "in use", "why: memory.recompute says so"}) {
    EXPECT_NE(end.out.find(part), std::string::npos) << part << " in " << end.out;
  }
}

TEST_F(Recompute, RefusalsOfferThreeChangesThatFit) {
  const Words layers{
      "--train.order=layer-major",
      "--memory.recompute=none",
      "--memory.device=" +
          std::to_string(reserved({"--train.order=layer-major", "--memory.recompute=none"}) - 1)};
  const auto placement = offered(layers);
  ASSERT_EQ(placement.size(), 3u);
  EXPECT_EQ(placement[0], "--train.order=micro-batch-major");
  EXPECT_EQ(placement[1], "--memory.recompute=0:elementwise");
  EXPECT_TRUE(placement[2].starts_with("--memory.device=")) << placement[2];

  const Words large{"--train.micro_batch=4", "--memory.recompute=block"};
  const std::int64_t least = reserved(large);
  Words tight = large;
  tight.push_back("--memory.device=" + std::to_string(least - 1));
  const auto numeric = offered(tight);
  ASSERT_EQ(numeric.size(), 3u);
  EXPECT_TRUE(numeric[0].starts_with("--memory.device=")) << numeric[0];
  EXPECT_TRUE(numeric[1].starts_with("--memory.host=")) << numeric[1];
  EXPECT_TRUE(numeric[2].starts_with("--train.micro_batch=")) << numeric[2];

  Words hopeless = large;
  hopeless.emplace_back("--memory.device=100KiB");
  EXPECT_EQ(offered(hopeless).size(), 1u);  // another budget
  const CommandEnd end = run_command(words("plan", "plan", hopeless));
  EXPECT_NE(end.err.find("only 1 of the changes tried would fit"), std::string::npos) << end.err;
}

TEST_F(Recompute, RefusesWhatItDoesNotKnow) {
  for (const char* bad : {"",
                          "some",
                          "1",
                          "0-1",
                          "2-1:block",
                          "0:block,0:none",
                          "0:blocks",
                          "-1:block",
                          "0:block,"}) {
    expect_refused(run_command(words("train", "run", {std::string("--memory.recompute=") + bad})),
                   2,
                   {"memory.recompute", "0-5:block"});
  }
  expect_refused(run_command(words("train", "run", {"--memory.recompute=1-3:block"})),
                 2,
                 {"memory.recompute", "block 3", "0 to 2"});
  EXPECT_FALSE(exists(runs_ / "run"));
  expect_refused(run_command({"bench", "step", "--model", "tiny-gpt2", "--recompute", "auto-"}),
                 2,
                 {"--recompute", "auto-"});
}

}  // namespace
}  // namespace strata::tests
