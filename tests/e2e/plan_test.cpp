// strata plan where bytes are offloaded: what it tells adds up, what it offers fits, what it draws
// is there; and train tells what came of it.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

using nlohmann::json;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Plans : public testing::Test {
 protected:
  Plans() { std::filesystem::create_directory(runs_ / "nvme"); }

  /// Three decoder blocks, four micro-batches; a setting of `more` replaces ours.
  Words words(const std::string& command, const Words& more) const {
    Words all = more;
    for (const char* word : {"--model.L=3",
                             "--model.C=32",
                             "--train.micro_batch=1",
                             "--train.steps=3",
                             "--checkpoint.every=0",
                             "--memory.recompute=none"}) {
      const std::string key(word, std::string_view(word).find('=') + 1);
      if (std::ranges::none_of(more, [&](const auto& o) { return o.starts_with(key); })) {
        all.emplace_back(word);
      }
    }
    Words words = runs_.train("run", all);
    words.front() = command;
    return words;
  }
  std::string nvme(const std::string& size) const {
    return "--memory.nvme=" + (runs_ / "nvme").string() + ":" + size;
  }
  CommandEnd plan(const Words& more, int exit_code = 0) const {
    CommandEnd end = run_command(words("plan", more));
    EXPECT_EQ(end.exit_code, exit_code) << end.text();
    return end;
  }
  json planned(const Words& more) const { return json::parse(plan(more + Words{"--json"}).out); }
  static std::int64_t reserved(const json& plan, const char* tier) {
    return plan["tiers"][tier]["reserved_bytes"].get<std::int64_t>();
  }
  /// The flags that a refusal offers, each as the words of one change.
  static std::vector<Words> offered(const CommandEnd& end) {
    std::vector<Words> changes;
    static const std::regex change(R"((--\S+=\S+(?: --\S+=\S+)*) \()"), flag(R"(--\S+)");
    for (std::sregex_iterator at(end.err.begin(), end.err.end(), change), last; at != last; ++at) {
      const std::string text = (*at)[1];
      changes.emplace_back();
      for (std::sregex_iterator f(text.begin(), text.end(), flag); f != last; ++f) {
        changes.back().push_back(f->str());
      }
    }
    return changes;
  }
  /// One line that names the budget, and changes each of which is enough. Returns their number.
  std::size_t expect_remedies(const Words& more, const std::string& tier) const {
    const CommandEnd end = plan(more, 3);
    EXPECT_EQ(std::ranges::count(end.err, '\n'), 1) << end.text();
    EXPECT_TRUE(std::regex_search(
        end.err,
        std::regex("tier " + tier + " needs [^,]+, its budget is [^:]+: [^;]+ are missing")))
        << end.text();
    const auto changes = offered(end);
    for (const Words& change : changes) {
      Words changed = more;
      for (const std::string& flag : change) {
        const std::string key = flag.substr(0, flag.find('=') + 1);
        std::erase_if(changed, [&](const auto& word) { return word.starts_with(key); });
        changed.push_back(flag);
      }
      EXPECT_TRUE(planned(changed)["fits"].get<bool>()) << end.err;
    }
    return changes.size();
  }

  TinyRuns runs_;
};

const Words kStateInHost{"--memory.host=8MiB", "--memory.placement=state=host"};

TEST_F(Plans, TellEveryTierAndTheTimeOfAStep) {
  const Words offload{
      "--memory.host=8MiB", nvme("8MiB"), "--memory.placement=weights=host,state=nvme"};
  const json p = planned(offload);
  for (const char* tier : {"device", "host", "nvme"}) {
    EXPECT_GT(reserved(p, tier), 0) << tier;
  }
  EXPECT_EQ(p["tiers"]["host"]["budget_bytes"], 8 << 20);
  const json& step = p["step"];
  const std::int64_t state = p["tiers"]["nvme"]["peak_bytes"].get<std::int64_t>();
  EXPECT_EQ(step["nvme_read_bytes"], state);  // once, and back
  EXPECT_EQ(step["nvme_written_bytes"], state);
  double most = 0;
  for (const auto& [resource, seconds] : step["busy_seconds"].items()) {
    most = std::max(most, seconds.get<double>());
  }
  const double seconds = step["seconds"].get<double>();
  EXPECT_DOUBLE_EQ(step["bound_seconds"].get<double>(), most);
  EXPECT_EQ(step["busy_seconds"][step["bound_by"].get<std::string>()], most);
  EXPECT_GE(seconds, most);
  EXPECT_NEAR(step["tokens_per_second"].get<double>() * seconds, 64, 1e-6);
  EXPECT_NEAR(step["nvme_written_bytes_per_day"].get<double>() * seconds / 86400,
              static_cast<double>(state),
              1);
  double stalled = 0;
  for (const json& stall : step["stalls"]) {
    stalled += stall["seconds"].get<double>();
  }
  EXPECT_NEAR(stalled, step["stalled_seconds"].get<double>(), 1e-12);
  EXPECT_NEAR(seconds, stalled + step["busy_seconds"]["compute"].get<double>(), 1e-9);

  const std::string text = plan(offload).out;
  for (const char* part : {"device at peak",
                           "host at peak",
                           "nvme at peak",
                           "placement: weights=host,state=nvme,",
                           "predicted (bound ",
                           "tokens/s",
                           "busy: compute ",
                           "stalled ",
                           "written per step; at that pace",
                           "B written per day",
                           "rates: "}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
}

TEST_F(Plans, SayWhetherRatesWereMeasured) {
  const CommandEnd assumed = run_command(words("plan", kStateInHost),
                                         {.environment = {{"XDG_CACHE_HOME", runs_ / "none"}}});
  EXPECT_NE(assumed.out.find("rates: assumed"), std::string::npos) << assumed.text();
  EXPECT_NE(assumed.out.find("strata bench hardware --paths"), std::string::npos);
}

TEST_F(Plans, CompareEveryPlacingBestFirst) {
  const std::int64_t all = reserved(planned({}), "device");
  const Words tight{
      "--memory.device=" + std::to_string(all * 3 / 4), "--memory.host=300KiB", nvme("8MiB")};
  const json p = planned(tight + Words{"--compare"});
  const json& tried = p["tried"];
  ASSERT_GT(tried.size(), 10u);
  std::set<std::string> names;
  double before = 0;
  bool fits = true;
  int chosen = 0;
  for (const json& one : tried) {
    names.insert(one["placement"]);
    EXPECT_TRUE(fits || !one["fits"].get<bool>()) << "what fits comes first";
    fits = one["fits"].get<bool>();
    if (fits) {
      EXPECT_GE(one["seconds"].get<double>(), before);
      before = one["seconds"].get<double>();
    } else {
      EXPECT_GT(one["missing_bytes"].get<std::int64_t>(), 0);
    }
    if (one["chosen"].get<bool>()) {
      ++chosen;
      EXPECT_EQ(one["placement"], p["placement"]);
      EXPECT_EQ(one["seconds"], p["step"]["seconds"]);
      EXPECT_EQ(one["seconds"], tried[0]["seconds"]);
    }
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_EQ(names.size(), tried.size());
  EXPECT_FALSE(fits);  // the device alone, at least
  // What is compared is what is planned. One that differs by block has no setting of its own.
  const json& best = *std::ranges::find_if(tried, [](const json& one) {
    return one["placement"].get<std::string>().find(';') == std::string::npos;
  });
  const json again =
      planned(tight + Words{"--memory.placement=" + best["placement"].get<std::string>()});
  EXPECT_EQ(again["step"]["seconds"], best["seconds"]);

  const json reasons = planned(tight + Words{"--explain"})["reasons"];
  ASSERT_GT(reasons.size(), 0u);
  for (const json& r : reasons) {  // another placing of the same, tried
    const json& other = r["placing"];
    EXPECT_NE(other["placement"], p["placement"]);
    const char* told = other["fits"].get<bool>() ? "seconds" : "missing_bytes";
    EXPECT_GT(other[told].get<double>(), 0) << r;
  }
  const std::string text = plan(tight + Words{"--compare", "--explain"}).out;
  for (const char* part : {"in use",
                           "lacks ",
                           "next best: ",
                           "why: auto: the device alone lacks",
                           ", not device: there "}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  const CommandEnd hopeless =
      plan({"--memory.device=100KiB", "--memory.host=1MiB", "--compare"}, 3);
  EXPECT_NE(hopeless.out.find("lacks "), std::string::npos) << hopeless.text();
}

TEST_F(Plans, A26RefusalsNameTheBudgetAndOfferWhatFits) {
  const std::int64_t room = reserved(planned(kStateInHost), "device") * 5 / 4;
  const std::string device = "--memory.device=" + std::to_string(room);
  EXPECT_GE(
      expect_remedies({device, "--memory.host=100KiB", "--memory.placement=state=host"}, "host"),
      2u);
  EXPECT_GE(expect_remedies({device, nvme("100KiB"), "--memory.placement=state=nvme"}, "nvme"), 2u);
  const Words large{"--train.micro_batch=4", "--memory.host=8MiB"};
  const std::int64_t least = reserved(planned(large + Words{"--memory.device=minimum"}), "device");
  EXPECT_EQ(
      expect_remedies(large + Words{"--memory.device=" + std::to_string(least - 1)}, "device"), 3u);
  // Neither memory is enough, and both are told.
  EXPECT_GE(
      expect_remedies({"--memory.device=300KiB", "--memory.host=100KiB", nvme("100KiB")}, "device"),
      1u);
}

/// What a step may write to files is a budget like the others.
TEST_F(Plans, A24WritesArePlannedOrRefused) {
  const Words files{
      "--memory.host=8MiB", nvme("8MiB"), "--memory.placement=weights=host,state=nvme"};
  const auto most = [](std::int64_t bytes) {
    return Words{"--memory.nvme_writes=" + std::to_string(bytes)};
  };
  const auto written = planned(files)["step"]["nvme_written_bytes"].get<std::int64_t>();
  ASSERT_GT(written, 0);
  const json kept = planned(files + most(written));
  EXPECT_EQ(kept["step"]["nvme_written_budget_bytes"], written);
  EXPECT_EQ(kept["step"]["nvme_most_written_bytes"], written);
  const std::string text = plan(files + most(written) + Words{"--explain"}).out;
  for (const char* part : {"memory.nvme_writes allows", "written per day"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  const CommandEnd refused = plan(files + most(written - 1), 3);
  EXPECT_EQ(std::ranges::count(refused.err, '\n'), 1) << refused.text();
  EXPECT_NE(refused.err.find("memory.nvme_writes allows"), std::string::npos) << refused.text();
  const auto changes = offered(refused);
  EXPECT_GE(changes.size(), 2u) << refused.err;
  for (const Words& change : changes) {
    Words changed = files + most(written - 1);
    for (const std::string& flag : change) {
      const std::string key = flag.substr(0, flag.find('=') + 1);
      std::erase_if(changed, [&](const auto& word) { return word.starts_with(key); });
      changed.push_back(flag);
    }
    EXPECT_TRUE(planned(changed)["fits"].get<bool>()) << refused.err;
  }
  // Left to itself the plan does without.
  const std::int64_t all = reserved(planned({}), "device");
  const json none = planned(Words{"--memory.device=" + std::to_string(all * 3 / 4),
                                  "--memory.host=8MiB",
                                  nvme("8MiB"),
                                  "--memory.nvme_writes=0"});
  EXPECT_TRUE(none["fits"].get<bool>());
  EXPECT_EQ(none["step"]["nvme_most_written_bytes"], 0);
}

/// Tiers none of which is enough are, together.
TEST_F(Plans, TiersAreUsedTogether) {
  const std::int64_t all = reserved(planned({}), "device");
  const std::string part = std::to_string(all / 5);
  const json p = planned({"--memory.device=" + std::to_string(all * 2 / 3),
                          "--memory.pinned=" + part,
                          "--memory.far=" + part,
                          "--memory.recompute=auto"});
  EXPECT_TRUE(p["fits"].get<bool>());
  EXPECT_GT(reserved(p, "pinned") + reserved(p, "far"), 0);
  EXPECT_LE(reserved(p, "pinned"), all / 5);
  EXPECT_LE(reserved(p, "far"), all / 5);
}

/// Elements of the picture: it is small and ours, so regular expressions do.
struct Picture {
  std::map<std::string, int> rects;  // by class
  std::vector<std::string> lanes;
  double width = 0;
};

Picture read_picture(const std::filesystem::path& file) {
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  static const std::regex token(R"(<(/?)(\w+)([^<>]*?)(/?)>|[<&]|>)");
  static const std::regex kind(R"re(class="(\w+)")re"), lane(R"re(class="lane">([^<]*)<)re");
  Picture picture;
  std::vector<std::string> open;
  for (std::sregex_iterator at(text.begin(), text.end(), token), last; at != last; ++at) {
    const std::smatch& m = *at;
    if (m.str() == "&") {
      EXPECT_TRUE(std::regex_search(m[0].first,
                                    text.end(),
                                    std::regex("^&(amp|lt|gt|quot);"),
                                    std::regex_constants::match_continuous))
          << "an unescaped &";
      continue;
    }
    if (!m[2].matched) {
      ADD_FAILURE() << "a stray " << m.str();
      continue;
    }
    if (m[1].length() > 0) {
      EXPECT_FALSE(open.empty());
      EXPECT_EQ(open.back(), m[2].str());
      open.pop_back();
      continue;
    }
    const std::string attributes = m[3];
    EXPECT_EQ(attributes.find("href"), std::string::npos);
    if (std::smatch c; m[2] == "rect" && std::regex_search(attributes, c, kind)) {
      ++picture.rects[c[1]];
    }
    if (m[4].length() == 0) {
      open.push_back(m[2]);
    }
  }
  EXPECT_TRUE(open.empty());
  for (std::sregex_iterator at(text.begin(), text.end(), lane), last; at != last; ++at) {
    picture.lanes.push_back(std::regex_replace((*at)[1].str(), std::regex("&gt;"), ">"));
  }
  return picture;
}

TEST_F(Plans, DrawALaneForEachResourceAndABarForEachTier) {
  const Words offload{
      "--memory.host=8MiB", nvme("8MiB"), "--memory.placement=weights=host,state=nvme"};
  const auto file = runs_ / "step.svg";
  const CommandEnd end = plan(offload + Words{"--program", "--json", "--svg", file.string()});
  const json p = json::parse(end.out.substr(end.out.find("\n{\"") + 1));
  int moves = 0, computing = 0;
  std::istringstream program(end.out);
  for (std::string line; std::getline(program, line);) {
    const auto is = [&](const char* op) { return line.find(op) != std::string::npos; };
    moves += (is(" fetch ") || is(" evict ")) && !is("clean");
    computing += is(" forward ") || is(" backward ") || is(" norm ") || is(" update ");
  }
  const Picture picture = read_picture(file);
  EXPECT_EQ(picture.rects.at("move"), moves) << end.out;
  EXPECT_EQ(picture.rects.at("op"), computing) << end.out;
  EXPECT_EQ(picture.rects.at("bar"), 3);
  EXPECT_GE(picture.rects.at("part"), 3);
  std::vector<std::string> resources{"compute"};
  for (const auto& [name, seconds] : p["step"]["busy_seconds"].items()) {
    if (name != "compute" && name != "shared links" && seconds.get<double>() > 0) {
      resources.push_back(name);
    }
  }
  EXPECT_EQ(std::set(picture.lanes.begin(), picture.lanes.end()),
            std::set(resources.begin(), resources.end()));
  for (const auto& entry : std::filesystem::directory_iterator(runs_.dir().path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("step.svg.")) << entry.path();
  }
  EXPECT_EQ(run_command(words("plan", {"--svg", (runs_ / "no" / "step.svg").string()})).exit_code,
            8);
}

TEST_F(Plans, TrainTellsWhatCameOfThem) {
  const Words offload{
      "--memory.host=8MiB", nvme("8MiB"), "--memory.placement=weights=host,state=nvme"};
  const json p = planned(offload);
  const CommandEnd end = run_command(words("train", offload + Words{"--json", "--data.valid=0.1"}));
  ASSERT_EQ(end.exit_code, 0) << end.text();
  const json o = json::parse(end.out)["offloaded"];
  const auto read = [&](const char* what) {
    return o["nvme_read_per_step"][what].get<std::int64_t>();
  };
  EXPECT_GE(read("used_bytes"), read("planned_bytes"));
  EXPECT_LE(read("used_bytes"), 2 * read("planned_bytes")) << "nothing is read twice but ahead";
  EXPECT_EQ(o["nvme_written_per_step"]["used_bytes"], p["step"]["nvme_written_bytes"]);
  EXPECT_EQ(o["predicted_seconds"], p["step"]["seconds"]);
  EXPECT_GT(o["median_seconds"].get<double>(), 0);
  for (const char* tier : {"host", "nvme"}) {
    EXPECT_EQ(o["tiers"][tier]["used_bytes"], p["tiers"][tier]["peak_bytes"]) << tier;
  }
  for (const char* part :
       {"step: predicted ", ", median ", "host: planned ", "nvme in a step: read "}) {
    EXPECT_NE(end.err.find(part), std::string::npos) << part << " in " << end.err;
  }
  std::filesystem::remove_all(runs_ / "run");
  const CommandEnd resident = run_command(words("train", {}));
  EXPECT_EQ(resident.err.find("step: predicted"), std::string::npos) << resident.err;
}

}  // namespace
}  // namespace strata::tests
