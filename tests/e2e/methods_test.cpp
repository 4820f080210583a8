// Every optimizer by name, compositions of our own and every weight format: neither the number of
// ranks, nor where and when a step is computed, nor a kill changes a bit. Methods are asked of the
// program, so that a new one is tested unasked.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Words join(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Settings by method that takes them, from the descriptions of the schema: "help; method
/// [default]: adamw [0.9], sgd [0]".
std::map<std::string, std::set<std::string>> settings_by_method() {
  std::map<std::string, std::set<std::string>> all;
  const std::function<void(const json&, const std::string&)> visit = [&](const json& object,
                                                                         const std::string& path) {
    for (const auto& [name, property] : object.items()) {
      const std::string key = path.empty() ? name : path + "." + name;
      if (property.contains("properties")) {
        visit(property["properties"], key);
        continue;
      }
      constexpr std::string_view kMethods = "method [default]: ";
      const std::string help = property.value("description", "");
      auto at = help.find(kMethods);
      at = at == std::string::npos ? at : at + kMethods.size();
      while (at < help.size()) {
        const auto end = help.find(" [", at);
        all[help.substr(at, end - at)].insert(key);
        const auto next = help.find("], ", end);
        at = next == std::string::npos ? next : next + 3;
      }
    }
  };
  const json schema = json::parse(run_command({"config", "schema"}).out, nullptr, false);
  if (schema.is_object()) {
    visit(schema["properties"]["optim"]["properties"], "");
  }
  return all;
}

/// What is trained, by settings; small tensors, so codes are asked for them too and subspaces are
/// renewed within a run.
struct Case {
  std::string name;
  Words words;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }
};

Case method_case(const std::string& name, const std::set<std::string>& takes) {
  Words words{"--optim.method=" + name};
  for (const char* set : {"refresh_every=25", "min_coded=1", "code_embeddings=true"}) {
    const std::string word = set;
    if (takes.contains(word.substr(0, word.find('=')))) {
      words.push_back("--optim." + word);
    }
  }
  return {name, words};
}

std::vector<Case> methods() {
  std::vector<Case> all;
  for (const auto& [name, takes] : settings_by_method()) {
    all.push_back(method_case(name, takes));
  }
  return all;
}

/// `text`: settings as "method=lion states=4bit", of the section optim unless they name another.
Case composed(const std::string& name, const std::string& text) {
  Words words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    const bool whole = word.starts_with("train.") || word.starts_with("model.");
    words.push_back((whole ? "--" : "--optim.") + word);
    at = end + 1;
  }
  return {name, words};
}

std::vector<Case> compositions() {
  return {
      composed("lion_4bit_random",
               "method=lion states=4bit min_coded=1 subspace=random refresh_every=25 "
               "remainder=sign"),
      composed("adam_bf16_rows_sgd",
               "method=adamw states=bf16 subspace=rows density=0.5 refresh_every=25 remainder=sgd"),
      composed("adam_4bit_svd_residual",
               "method=adamw states=4bit min_coded=1 subspace=svd rank=5 reset=true "
               "refresh_every=25 remainder=residual percentile_clip=50"),
      composed("sgd_fp8_coordinates",
               "method=sgd momentum=0.9 states=fp8 min_coded=1 subspace=coordinates "
               "refresh_every=25"),
      composed("adam_8bit_percentile",
               "method=adamw8bit min_coded=1 code_embeddings=true percentile_clip=5"),
      composed("muon_8bit_lion", "method=muon states=8bit min_coded=1 aux.rule=lion"),
      composed("adam_mini_8bit", "method=adam_mini states=8bit min_coded=1"),
      composed("microadam_unbiased",
               "method=microadam window=7 density=0.03 stochastic_error=true window_norm=true"),
      composed("galore8bit_int8",
               "method=galore8bit min_coded=1 refresh_every=25 train.weights=int8"),
      composed("frugal_tensors", "method=frugal subspace=tensors density=0.3 refresh_every=25"),
      composed("lion_4bit_blocks_master",
               "method=badam rule=lion states=4bit min_coded=1 blocks=2 ends=in_turn "
               "refresh_every=25 train.dtype=bf16 train.weights=master"),
      composed("adam_8bit_blocks_sign",
               "method=badam states=8bit min_coded=1 remainder=sign rest_lr=0.1 "
               "refresh_every=25 percentile_clip=50"),
      composed("blocks_kahan",
               "method=lisa blocks=1 refresh_every=25 train.dtype=bf16 train.weights=kahan"),
      composed("qgalore_int8",
               "method=qgalore min_coded=1 refresh_every=5 lazy_similarity=0.1 train.weights=int8"),
      composed("natural_galore_short",
               "method=natural_galore rank=4 refresh_every=9 fisher_window=3"),
      composed("sgd_sai_percentile", "method=sgd_sai percentile_clip=20"),
      composed("adam_mini_percentile", "method=adam_mini percentile_clip=20"),
      composed("mfac_4bit", "method=mfac_sparse window=5 density=0.05 error=4bit"),
      composed("factors", "model.factor_rank=6 train.balance_every=7 method=adamw"),
      composed("factors_master_galore",
               "model.factor_rank=6 train.balance_every=11 method=galore rank=3 refresh_every=25 "
               "train.dtype=bf16 train.weights=master"),
      composed("frugal_stochastic",
               "method=frugal refresh_every=25 train.dtype=bf16 train.weights=stochastic"),
  };
}

std::vector<Case> formats() {
  std::vector<Case> all;
  for (const char* dtype : {"f32", "bf16"}) {
    for (const char* weights : {"f32", "master", "stochastic", "kahan", "int8"}) {
      const std::string d = dtype, w = weights;
      if (w == "int8" || (w == "f32") == (d == "f32")) {
        all.push_back(
            composed("weights_" + w + "_" + d, "train.dtype=" + d + " train.weights=" + w));
      }
    }
  }
  return all;
}

std::vector<Case> everything() {
  std::vector<Case> all = methods();
  for (const auto& more : {compositions(), formats()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

/// One of each kind: low rank and coded, a window, a weight format, statistics.
std::vector<Case> a_few() {
  std::vector<Case> few = everything();
  const std::set<std::string> kinds{
      "galore8bit", "microadam", "weights_kahan_bf16", "adam_8bit_percentile"};
  std::erase_if(few, [&](const Case& one) { return !kinds.contains(one.name); });
  return few;
}

/// How a computation is placed; 0 ranks: without mpirun.
struct Placing {
  int ranks = 0;
  Words words = {};
};

class OfMethods : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (mpirun().empty()) {
      GTEST_SKIP() << "mpirun is not installed";
    }
  }

  Words train(const std::string& name, const std::string& preset, int steps) const {
    return runs_.train(name,
                       join({"--model.preset=" + preset,
                             "--model.L=2",
                             "--model.C=64",
                             "--model.dropout=0.1",
                             "--optim.clip=1.2",
                             "--train.seq_len=32",
                             "--train.batch_tokens=128",
                             "--train.micro_batch=1",
                             "--train.steps=" + std::to_string(steps),
                             "--train.schedule.lr=3e-3",
                             "--checkpoint.every=20",
                             "--numerics.deterministic=elastic",
                             "--resume=auto"},
                            GetParam().words));
  }

  static void must_run(const Words& words, const Placing& placing = {}) {
    Words all = words;
    for (const std::string& word : placing.words) {
      const auto same = [&](const std::string& other) {
        return other.substr(0, other.find('=')) == word.substr(0, word.find('='));
      };
      std::erase_if(all, same);
      all.push_back(word);
    }
    const CommandEnd end =
        run_command(all, {.ranks = placing.ranks, .timeout = std::chrono::seconds(600)});
    EXPECT_EQ(end.exit_code, 0) << end.text();
  }

  /// Killed on `ranks` ranks at step `at`, between checkpoints.
  static void must_die(const Words& words, int ranks, int at) {
    const std::string point = "train.step:" + std::to_string(at);
    const CommandEnd end =
        run_command(words, {.environment = {{"STRATA_KILL_AT", point}}, .ranks = ranks});
    EXPECT_TRUE(end.signal == SIGKILL || end.exit_code != 0) << end.text();
  }

  void expect_no_difference(const std::string& preset,
                            int steps,
                            const std::vector<Placing>& placings) const {
    must_run(train("straight", preset, steps));
    for (const Placing& placing : placings) {
      const std::string name = "ranks" + std::to_string(placing.ranks);
      SCOPED_TRACE(name);
      must_run(train(name, preset, steps), placing);
      expect_identical(runs_ / "straight", runs_ / name);
    }
  }

  TinyRuns runs_;
};

const Placing kTwoRanks{
    2, {"--numerics.update=speculative", "--train.order=micro-batch-major", "--threads=2"}};

TEST_P(OfMethods, TwoRanksAndAKillChangeNoBit) {
  expect_no_difference("tiny-gpt2", 32, {kTwoRanks});
  must_die(train("killed", "tiny-gpt2", 32), 2, 29);
  must_run(train("killed", "tiny-gpt2", 32));
  expect_identical(runs_ / "straight", runs_ / "killed");
}
INSTANTIATE_TEST_SUITE_P(OfEachKind,
                         OfMethods,
                         testing::ValuesIn(a_few()),
                         testing::PrintToStringParamName());

class SlowMethods : public OfMethods {};

TEST_P(SlowMethods, AnyNumberOfRanksGivesTheSameBytes) {
  expect_no_difference(
      "tiny-llama",
      30,
      {{1}, kTwoRanks, {3, {"--parallel.zero=0"}}, {4, {"--train.order=micro-batch-major"}}});
}

TEST_P(SlowMethods, KilledAndResumedGivesTheSameBytes) {
  constexpr int kSteps = 100, kKilledAt = 65;
  must_run(train("straight", "tiny-gpt2", kSteps));
  for (const auto& [killed, resumed] : {std::pair{0, 0}, {2, 3}, {2, 1}}) {
    const std::string name = std::to_string(killed) + "then" + std::to_string(resumed);
    SCOPED_TRACE(name);
    must_die(train(name, "tiny-gpt2", kSteps), killed, kKilledAt);
    must_run(train(name, "tiny-gpt2", kSteps), {resumed});
    expect_identical(runs_ / "straight", runs_ / name);
  }
}
INSTANTIATE_TEST_SUITE_P(All,
                         SlowMethods,
                         testing::ValuesIn(everything()),
                         testing::PrintToStringParamName());

/// Checkpoints of every weight format are models like any other.
class OfFormats : public testing::TestWithParam<Case> {
 protected:
  json tell(const Words& words) const {
    const CommandEnd end = run_command(join(words, {"--json"}));
    EXPECT_EQ(end.exit_code, 0) << end.text();
    const std::string line = end.out.substr(0, end.out.rfind('\n'));
    return json::parse(line.substr(line.rfind('\n') + 1), nullptr, false);
  }
  json train(const std::string& name, const Words& more) const {
    return tell(runs_.train(name, join({"--data.valid=0.1", "--train.eval_every=0"}, more)));
  }
  json evaluate(const std::string& name) const {
    json told = tell({"eval", runs_ / name, "--data", runs_ / "text"});
    EXPECT_GT(told["tokens"].get<int>(), 1000);
    return told["loss"];
  }
  json generate(const std::string& name) const {
    return tell({"generate",
                 runs_ / name,
                 "--prompt",
                 "the cat",
                 "--max-tokens",
                 "12",
                 "--temperature",
                 "0"})["ids"];
  }
  TinyRuns runs_;
};

TEST_P(OfFormats, EvaluateGenerateAndStartOtherRuns) {
  const auto trained =
      train("run", join(GetParam().words, {"--train.steps=30", "--train.schedule.lr=3e-3"}));
  const double loss = evaluate("run").get<double>();
  EXPECT_LT(loss, 5.0);  // log(256) = 5.5 at the start
  EXPECT_NEAR(trained["validation_loss"].get<double>(), loss, 0.5);
  // A step without a learning rate writes down what it was given.
  const auto start_from_it = [&](const std::string& name, const Words& more) {
    Words words = runs_.train(name,
                              join({"--model.init_from=" + (runs_ / "run").string(),
                                    "--data.valid=0.1",
                                    "--train.eval_every=0",
                                    "--train.steps=1",
                                    "--train.schedule.lr=0"},
                                   more));
    std::erase_if(words, [](const std::string& word) {
      return word.starts_with("--model.") && !word.starts_with("--model.init_from");
    });
    return tell(words);
  };
  start_from_it("plain", {});
  EXPECT_EQ(evaluate("plain"), loss);
  EXPECT_EQ(generate("plain"), generate("run"));
  const auto again = start_from_it("again", GetParam().words);
  // Codes of what codes stand for are not always the same ones: a group's range may have shrunk.
  const bool exact = GetParam().name.find("int8") == std::string::npos;
  EXPECT_NEAR(again["validation_loss"].get<double>(),
              trained["validation_loss"].get<double>(),
              exact ? 0.0 : 1e-3);
}
INSTANTIATE_TEST_SUITE_P(OfEachKind,
                         OfFormats,
                         testing::ValuesIn(formats()),
                         testing::PrintToStringParamName());

/// Columns "matrices" and "gpt2-124m" of optim/README.md, by method.
std::map<std::string, std::pair<std::string, std::string>> told_bytes() {
  std::map<std::string, std::pair<std::string, std::string>> told;
  std::ifstream in(fs::path(STRATA_SOURCE_DIR) / "optim/README.md");
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string bar, method, of_matrices, of_all;
    words >> bar >> method >> bar >> of_matrices >> bar >> of_all;
    if (line.starts_with("| `") && method.size() > 2) {
      told[method.substr(1, method.size() - 2)] = {of_matrices, of_all};
    }
  }
  return told;
}

TEST(Methods, TheReadmeTellsWhatEachKeeps) {
  const auto plan = [](const std::string& method) {
    const CommandEnd end =
        run_command({"plan", "--model.preset=gpt2-124m", "--optim.method=" + method, "--json"});
    return json::parse(end.out, nullptr, false);
  };
  const auto matrix_bytes = [](const json& object) {
    return object["optimizer"]["state_bytes_by_role"].value("matrix", 0.0);
  };
  const double matrices = matrix_bytes(plan("adamw")) / 8;  // two moments of 4 bytes
  const auto told = told_bytes();
  for (const Case& one : methods()) {
    const auto row = told.find(one.name);
    ASSERT_NE(row, told.end()) << "optim/README.md has no row for " << one.name;
    const json object = plan(one.name);
    const double all = object["optimizer"]["state_bytes"].get<double>();
    EXPECT_EQ(row->second.first, fmt::format("{:.2f}", matrix_bytes(object) / matrices))
        << one.name;
    EXPECT_EQ(row->second.second, fmt::format("{:.2f}", all / object["parameters"].get<double>()))
        << one.name;
  }
}

TEST(Methods, EveryOneIsAmongTheTested) {
  const TinyRuns runs;
  const CommandEnd end = run_command(runs.train("run", {"--optim.method=none_such"}));
  std::string known = end.err.substr(end.err.find("Known: ") + 7);
  std::set<std::string> told, tested;
  for (std::size_t at = 0; at < known.size();) {
    const std::size_t to = std::min(known.find_first_of(",\n", at), known.size());
    told.insert(known.substr(at, to - at));
    at = to + 2;
  }
  for (const Case& one : methods()) {
    tested.insert(one.name);
  }
  EXPECT_TRUE(tested.contains("adamw"));
  EXPECT_EQ(told, tested);
}

}  // namespace
}  // namespace strata::tests
