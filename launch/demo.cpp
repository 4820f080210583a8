// strata demo: a whole run in about a minute, with nothing but this program. Writes stories from a
// grammar whose entropy is known exactly, trains on them, is killed half-way, resumes, and tells a
// story. Trains on two ranks where mpirun can start them: the bits are those of one process.
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
#include "launch/machine.h"
#include "launch/process.h"

namespace strata::launch {
namespace {

constexpr int kSteps = 750, kKilledAt = 375;
constexpr int kPeerLost = static_cast<int>(Errc::comm);
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
          "--train.micro_batch=4",
          "--numerics.deterministic=elastic",
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

/// mpirun with two ranks of this program on this machine, the second one with these variables.
std::vector<std::string> two_ranks(const std::vector<std::string>& words,
                                   const Environment& of_second) {
  // Two places whatever an enclosing batch job gives: the files lie on this machine.
  std::vector<std::string> all{"mpirun", "--host", "localhost:2", "--bind-to", "none"};
  const auto append = [&all](const std::vector<std::string>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  append({"-np", "1", own_path()});
  append(words);
  append({":", "-np", "1", "env"});
  for (const auto& [name, value] : of_second) {
    all.push_back(name + "=" + value);
  }
  all.push_back(own_path());
  append(words);
  return all;
}

/// Open MPI starts nothing for root, as whom containers run, unless told twice.
Environment of_mpirun() {
  return {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
}

/// Whether two ranks of this program start and meet here, each with a core of its own.
bool two_ranks_meet() {
  if (cores_allowed() < 2) {
    return false;
  }
  std::vector<std::string> words{"timeout", "30"};
  const auto probe = two_ranks({"bench", "allreduce", "--size", "1MiB", "--repeats", "1"}, {});
  words.insert(words.end(), probe.begin(), probe.end());
  const Ended ended = run_silently(words, of_mpirun());
  return ended.signal == 0 && ended.exit_code == 0;
}

/// Trains to its end, or to the step after which one process gets SIGKILL.
enum class Half : std::uint8_t { first, second };
Ended train_half(const std::filesystem::path& dir, Half half, bool two) {
  auto words = train_words(dir);
  Environment killed;
  if (half == Half::first) {
    killed = {{"STRATA_KILL_AT", fmt::format("train.step:{}", kKilledAt)}};
  } else {
    words.push_back("--resume=auto");
  }
  return two ? run_program(two_ranks(words, killed), of_mpirun()) : run_self(words, killed);
}

/// mpirun exits with the code of the rank that was killed or of the one that missed it.
bool was_killed(const Ended& ended, bool two) {
  return two ? ended.exit_code == 128 + SIGKILL || ended.exit_code == kPeerLost
             : ended.signal == SIGKILL;
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
  const bool two = two_ranks_meet();
  say(fmt::format(
      fmt::runtime(two ? "3. training on two ranks of mpirun; SIGKILL comes to one after step {}"
                       : "3. training; SIGKILL comes after step {}"),
      kKilledAt));
  const Ended killed = train_half(dir, Half::first, two);
  if (!was_killed(killed, two)) {
    require_success(killed, "the first half of the run");
    throw Error(Errc::internal, "demo: the run was to be killed and ended by itself");
  }
  say(two ? "4. one was killed, so both ended; both resume from the last checkpoint"
          : "4. killed; resuming from the last checkpoint");
  require_success(train_half(dir, Half::second, two), "the second half of the run");

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
