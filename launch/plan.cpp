// strata plan: what a run will need, exactly, before anything is allocated.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/plan_placements.h"
#include "launch/plan_report.h"
#include "launch/remedies.h"

namespace strata::launch {
namespace {

const std::vector<Option> kOptions{
    {"--json", "", "print one JSON object"},
    {"--explain", "", "print what each kind of recompute, and each other placing, saves and costs"},
    {"--ranks", "N", "plan for N ranks on this machine; shows the one that needs most"},
    {"--program", "", "print the instructions of a step"}};

RankPlace place_of(const Arguments& args) {
  const auto given = args.options.find("--ranks");
  if (given == args.options.end()) {
    return {};
  }
  constexpr int kMost = 4096;
  int ranks = 0;
  const char* const end = given->second.data() + given->second.size();
  const auto [at, error] = std::from_chars(given->second.data(), end, ranks);
  if (error != std::errc() || at != end || ranks < 1 || ranks > kMost) {
    throw Error(Errc::config,
                fmt::format("plan: --ranks needs 1 to {}, got '{}'", kMost, given->second));
  }
  return {.rank = 0, .world = ranks, .on_machine = ranks};
}

/// The rank that needs most stands for all.
Planned plan_largest(Job& job, std::vector<RankPeak>& ranks) {
  Planned planned = plan_job(job);
  ranks = rank_peaks(planned);
  const auto most = std::ranges::max_element(ranks, {}, &RankPeak::reserved_bytes);
  if (most->rank == job.computation.place.rank) {
    return planned;
  }
  job.computation.place.rank = most->rank;
  return plan_job(job);
}

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
  Job job = make_job(Settings({{}, args.file, process_environment(), args.settings}),
                     {},
                     Text::optional,
                     place_of(args));
  std::vector<RankPeak> ranks;
  const Planned planned = plan_largest(job, ranks);
  const bool json = args.options.contains("--json"), explain = args.options.contains("--explain");
  const auto options =
      json || explain ? recompute_options(job, planned) : std::vector<RecomputeOption>();
  if (args.options.contains("--program")) {
    std::ostringstream program;
    program << planned.blueprint->step_program();
    std::printf("%s", program.str().c_str());
  }
  if (json) {
    nlohmann::json object = plan_json(job, planned, options);
    object["placements"] = placements_json(placement_options(planned));
    object["ranks"] = ranks_json(ranks);
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("%s\n", model_line(job).c_str());
    if (ranks.size() > 1) {
      print_ranks(ranks);
      std::printf("rank %d:\n", job.computation.place.rank);
    }
    print_plan(planned);
    if (explain) {
      print_explanation(options, planned);
      print_placements(placement_options(planned));
    }
  }
  require_fit(job, planned);
  return 0;
}

}  // namespace strata::launch
