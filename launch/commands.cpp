#include "launch/commands.h"

#include <cstdint>
#include <cstdio>
#include <string_view>

#include "core/error.h"
#include "core/nearest.h"
#include "launch/ranks.h"
#include "launch/waiting.h"

namespace strata::launch {
namespace {

enum class Work : std::uint8_t { none, computes };
enum class Ranks : std::uint8_t { one, several };

struct Command {
  std::string_view name;
  std::string_view help;
  int (*run)(Words);
  Work work = Work::none;
  Ranks ranks = Ranks::one;  // whether mpirun may start several; a second one would only repeat
};

constexpr Command kCommands[] = {
    {"demo", "a whole run in about a minute: train, be killed, resume, tell a story", demo},
    {"train", "train a model on text", train, Work::computes, Ranks::several},
    {"resume", "go on with a run, with its settings", resume, Work::computes, Ranks::several},
    {"plan", "what a run will need, exactly, before anything is allocated", plan},
    {"eval", "loss and perplexity of a model on a text", evaluate, Work::computes},
    {"generate", "continue a prompt", generate, Work::computes},
    {"import", "a Hugging Face directory from another format", import_model},
    {"inspect", "what a checkpoint holds, and where two directories differ", inspect},
    {"config", "every setting, its value and where it came from; the schema", config},
    {"bench",
     "time real steps, the optimizer, or attention on this machine",
     bench,
     Work::computes,
     Ranks::several},
    // It tells what the others run under, so it runs under the same.
    {"doctor",
     "what this program sees of the machine and uses",
     doctor,
     Work::computes,
     Ranks::several},
};

void print_help() {
  std::string text =
      "strata: trains language models that are larger than the memory they are trained in\n\n"
      "usage: strata COMMAND [OPTIONS]      strata COMMAND --help tells more\n\n";
  for (const Command& c : kCommands) {
    text += "  " + std::string(c.name) + std::string(10 - c.name.size(), ' ') +
            std::string(c.help) + "\n";
  }
  text +=
      "\nexit codes: 0 done, 1 internal, 2 usage or settings, 3 plan infeasible, 4 data, 5 model "
      "or\n"
      "checkpoint format, 6 numerics, 7 peer lost, 8 I/O or disk full, 75 interrupted and "
      "resumable\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace

int run(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_help();
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& c : kCommands) {
    if (c.name == words[0]) {
      if (c.ranks == Ranks::one) {
        require_one_rank(c.name);
      }
      if (c.work == Work::computes) {
        choose_waiting(argv);
      }
      return c.run(Words(words).subspan(1));
    }
    names.emplace_back(c.name);
  }
  const std::string near = nearest(words[0], names);
  throw Error(Errc::config,
              "unknown command '" + words[0] + "'" +
                  (near.empty() ? "" : "; did you mean '" + near + "'?") + " See strata --help");
}

}  // namespace strata::launch
