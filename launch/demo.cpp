// strata demo: a whole run in about a minute, with nothing but this program. Writes stories from a
// grammar whose entropy is known exactly, trains on them, is killed half-way, resumes, and tells a
// story.
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "data/grammar.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "launch/process.h"

namespace strata::launch {
namespace {

constexpr int kSteps = 750, kKilledAt = 375;
constexpr std::int64_t kTextBytes = 1 << 20;

void say(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

std::vector<std::string> train_words(const std::filesystem::path& dir) {
  return {"train",
          "--model.preset=tiny-llama",
          "--model.L=3",
          "--data.train=" + (dir / "stories.txt").string(),
          "--data.valid=0.02",
          fmt::format("--train.steps={}", kSteps),
          "--train.seq_len=256",
          "--train.batch_tokens=2048",
          "--train.schedule.lr=4e-3",
          "--train.schedule.warmup_steps=50",
          fmt::format("--train.eval_every={}", kSteps / 5),
          "--checkpoint.every=100",
          "--run.dir=" + (dir / "run").string()};
}

/// The last validation loss that the run reported.
double validation_loss(const std::filesystem::path& run) {
  std::ifstream in(run / "metrics.jsonl");
  std::optional<double> loss;
  for (std::string line; std::getline(in, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (object.is_object() && object.contains("validation_loss")) {
      loss = object["validation_loss"].get<double>();
    }
  }
  if (!loss) {
    throw Error(Errc::internal, "demo: the run reported no validation loss");
  }
  return *loss;
}

void require_success(const Ended& ended, const char* what) {
  if (ended.signal != 0 || ended.exit_code != 0) {
    throw Error(
        Errc::internal,
        fmt::format(
            "demo: {} ended with exit code {} and signal {}", what, ended.exit_code, ended.signal));
  }
}

}  // namespace

int demo(Words words) {
  const Args args("demo",
                  words,
                  {},
                  {{"--dir", "", "where to work; a new temporary directory if not given"},
                   {"--seed", "1", "of the stories", CommandOption::Kind::integer}});
  if (args.help()) {
    return 0;
  }
  std::filesystem::path dir = args.text("--dir");
  if (dir.empty()) {
    std::string pattern = (std::filesystem::temp_directory_path() / "strata-demo-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      throw Error(Errc::io, "demo: cannot create " + pattern + "; give --dir");
    }
    dir = pattern;
  } else if (exists(dir / "run")) {
    throw Error(Errc::config,
                fmt::format("demo: {} was used before; choose another --dir", dir.string()));
  }
  create_directories(dir);
  const auto grammar = data::Grammar::stories();
  const double floor = grammar.entropy_nats_per_byte();
  const auto seed = static_cast<std::uint64_t>(args.integer("--seed"));
  io::replace_file(dir / "stories.txt", grammar.generate(seed, kTextBytes));
  say(fmt::format(
      "1. {} of stories from a grammar, in {}\n   no model can get below {:.4f} nats a byte; "
      "guessing bytes costs {:.4f}",
      "1 MiB",
      dir.string(),
      floor,
      std::log(256.0)));

  say("2. the plan, before anything is allocated");
  auto planned = train_words(dir);
  planned.front() = "plan";
  require_success(run_self(planned, {}), "the plan");
  say(fmt::format("3. training; SIGKILL comes after step {}", kKilledAt));
  const Ended killed =
      run_self(train_words(dir), {{"STRATA_KILL_AT", fmt::format("train.step:{}", kKilledAt)}});
  if (killed.signal != SIGKILL) {
    require_success(killed, "the first half of the run");
    throw Error(Errc::internal, "demo: the run was to be killed and ended by itself");
  }
  say("4. killed; resuming from the last checkpoint");
  auto again = train_words(dir);
  again.push_back("--resume=auto");
  require_success(run_self(again, {}), "the second half of the run");

  const double loss = validation_loss(dir / "run");
  say(fmt::format("5. validation loss {:.4f} nats a byte, {:.1f} % above the floor of {:.4f}",
                  loss,
                  100.0 * (loss / floor - 1.0),
                  floor));
  say("6. a story:");
  require_success(run_self({"generate",
                            (dir / "run").string(),
                            "--prompt",
                            "\n",
                            "--max-tokens",
                            "240",
                            "--temperature",
                            "0.6"},
                           {}),
                  "generation");
  return 0;
}

}  // namespace strata::launch
