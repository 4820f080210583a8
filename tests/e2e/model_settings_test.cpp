// Settings that make another function of a model: trained, killed, resumed, evaluated and used, on
// any number of ranks; refused beside weights that have none of it.
#include <csignal>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

using nlohmann::json;

struct Case {
  std::string name;
  Words words;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string family : {"gpt2", "llama"}) {
    const std::string preset = "--model.preset=tiny-" + family;
    all.push_back({family + "_stable_embedding", {preset, "--model.stable_embedding=true"}});
    all.push_back({family + "_factors", {preset, "--model.factor_rank=4"}});
  }
  return all;
}

class ModelSettings : public testing::TestWithParam<Case> {
 protected:
  Words train(const std::string& name, const Words& more) const {
    Words words{"--train.steps=30", "--train.schedule.lr=1e-2", "--checkpoint.every=10"};
    words.push_back("--numerics.deterministic=elastic");
    words.push_back("--train.micro_batch=2");
    words.push_back("--resume=auto");
    words.insert(words.end(), GetParam().words.begin(), GetParam().words.end());
    words.insert(words.end(), more.begin(), more.end());
    return runs_.train(name, words);
  }
  static json tell(Words words) {
    words.push_back("--json");
    const CommandEnd end = run_command(words);
    EXPECT_EQ(end.exit_code, 0) << end.text();
    const std::string line = end.out.substr(0, end.out.rfind('\n'));
    return json::parse(line.substr(line.rfind('\n') + 1), nullptr, false);
  }
  TinyRuns runs_;
};

TEST_P(ModelSettings, TrainsSurvivesAKillAndCanBeUsed) {
  const json straight = tell(train("straight", {}));
  EXPECT_LT(straight["loss"].get<double>(), 4.0);  // log(256) = 5.5 at the start
  const CommandEnd killed =
      run_command(train("killed", {}), {.environment = {{"STRATA_KILL_AT", "train.step:17"}}});
  EXPECT_EQ(killed.signal, SIGKILL) << killed.text();
  tell(train("killed", {}));
  expect_identical(runs_ / "straight", runs_ / "killed");
  const json evaluated = tell({"eval", runs_ / "straight", "--data", runs_ / "text"});
  EXPECT_LT(evaluated["loss"].get<double>(), 4.0);
  // Weights bring what their model is; saying so again is no mistake.
  Words from{"--model.init_from=" + (runs_ / "straight").string(), GetParam().words[1]};
  Words words = runs_.train("from", from);
  std::erase_if(words, [](const std::string& word) {
    return word.starts_with("--model.preset") || word.starts_with("--model.L") ||
           word.starts_with("--model.C") || word.starts_with("--model.H");
  });
  tell(words);
}

TEST_P(ModelSettings, TwoRanksChangeNoBit) {
  if (mpirun().empty()) {
    GTEST_SKIP() << "mpirun is not installed";
  }
  tell(train("one", {}));
  const CommandEnd end = run_command(train("two", {}), {.ranks = 2});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  expect_identical(runs_ / "one", runs_ / "two");
}

TEST_P(ModelSettings, IsRefusedBesideWeightsWithoutIt) {
  tell(runs_.train("plain", {GetParam().words[0]}));
  const std::string setting = GetParam().words[1].substr(2, GetParam().words[1].find('=') - 2);
  const CommandEnd end = run_command({"train",
                                      "--model.init_from=" + (runs_ / "plain").string(),
                                      GetParam().words[1],
                                      "--train.steps=1",
                                      "--train.seq_len=16",
                                      "--data.train=" + (runs_ / "text").string(),
                                      "--run.dir=" + (runs_ / "new").string()});
  expect_refused(end, 2, {setting, "but the weights in", "leave it out"});
  // Nor does a resumed run become another model.
  const Words resumed = runs_.train(
      "plain", {GetParam().words[0], GetParam().words[1], "--train.steps=9", "--resume=auto"});
  expect_refused(run_command(resumed), 2, {setting, "keeps its model"});
}

INSTANTIATE_TEST_SUITE_P(OfEachFamily,
                         ModelSettings,
                         testing::ValuesIn(cases()),
                         testing::PrintToStringParamName());

TEST(ModelSettings, ARankThatDoesNotFitIsAnsweredWithTheNearest) {
  const TinyRuns runs;
  expect_refused(run_command(runs.train("run", {"--model.factor_rank=17"})),
                 2,
                 {"factor_rank needs at most 16", "attn.c_attn (48, 16)", "nearest is 16"});
}

}  // namespace
}  // namespace strata::tests
