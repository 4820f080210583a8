// strata plan: what a run will need, exactly, before anything is allocated.
#include <cstdio>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/plan_report.h"
#include "launch/remedies.h"

namespace strata::launch {
namespace {

const std::vector<Option> kOptions{
    {"--json", "", "print one JSON object"},
    {"--explain", "", "print what each kind of recompute saves and costs"},
    {"--program", "", "print the instructions of a step"}};

}  // namespace

int plan(Words words) {
  std::vector<const char*> raw;
  for (const std::string& word : words) {
    raw.push_back(word.c_str());
  }
  const Arguments args = read_arguments(raw, kOptions);
  if (args.help) {
    std::printf(
        "usage: strata plan [-c run.toml] [--KEY=VALUE ...]   settings as for strata train\n\n%s",
        options_help(kOptions).c_str());
    return 0;
  }
  if (!args.positional.empty()) {
    throw Error(Errc::config,
                fmt::format("plan: takes settings only, got '{}'", args.positional[0]));
  }
  const Job job =
      make_job(Settings({{}, args.file, process_environment(), args.settings}), {}, Text::optional);
  const Planned planned = plan_job(job);
  const bool json = args.options.contains("--json"), explain = args.options.contains("--explain");
  const auto options =
      json || explain ? recompute_options(job, planned) : std::vector<RecomputeOption>();
  if (args.options.contains("--program")) {
    std::ostringstream program;
    program << planned.blueprint->step_program();
    std::printf("%s", program.str().c_str());
  }
  if (json) {
    std::printf("%s\n", plan_json(job, planned, options).dump().c_str());
  } else {
    std::printf("%s\n", model_line(job).c_str());
    print_plan(planned);
    if (explain) {
      print_explanation(options, planned);
    }
  }
  require_fit(job, planned);
  return 0;
}

}  // namespace strata::launch
