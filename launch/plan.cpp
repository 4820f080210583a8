// strata plan: what a run will need, exactly, before anything is allocated.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "launch/commands.h"
#include "launch/plan_placements.h"
#include "launch/plan_report.h"
#include "launch/plan_svg.h"
#include "launch/remedies.h"

namespace strata::launch {
namespace {

const std::vector<Option> kOptions{
    {"--json", "", "print one JSON object"},
    {"--explain",
     "",
     "print why the plan is as it is, what comes next, and what each kind of recompute saves"},
    {"--ranks", "N", "plan for N ranks on this machine; shows the one that needs most"},
    {"--compare", "", "print every placing and recompute that was tried, best first"},
    {"--svg", "FILE", "draw a step: a lane for each resource, a bar for each tier"},
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

std::vector<Placing> compare(const Job& job, const Blueprint* chosen) {
  const RunConfig& config = job.settings.config();
  return compare_placings(job.computation, config.memory, config.io, chosen);
}

/// What is missing where shows even when nothing fits.
Planned plan_or_compare(Job& job, std::vector<RankPeak>& ranks, bool compares) {
  try {
    return plan_largest(job, ranks);
  } catch (const Error& error) {
    if (compares && error.code() == Errc::infeasible) {
      print_comparison(compare(job, nullptr));
    }
    throw;
  }
}

struct Wishes {
  bool json = false, explain = false, compare = false;
};

void print_json(const Job& job,
                const Planned& planned,
                const std::vector<RankPeak>& ranks,
                Wishes wishes) {
  nlohmann::json object = plan_json(job, planned, recompute_options(job, planned));
  object["placements"] = placements_json(placement_options(planned));
  object["ranks"] = ranks_json(ranks);
  if (wishes.compare) {
    object["tried"] = placings_json(compare(job, planned.blueprint.get()));
  }
  if (wishes.explain) {
    object["reasons"] = reasons_json(reasons(*planned.blueprint, planned.budgets));
  }
  std::printf("%s\n", object.dump().c_str());
}

void print_text(const Job& job,
                const Planned& planned,
                const std::vector<RankPeak>& ranks,
                Wishes wishes) {
  std::printf("%s\n", model_line(job).c_str());
  if (ranks.size() > 1) {
    print_ranks(ranks);
    std::printf("rank %d:\n", job.computation.place.rank);
  }
  print_plan(planned);
  const bool offloads = planned.blueprint->computation().offloading != nullptr;
  const auto tried = wishes.compare || (wishes.explain && offloads)
                         ? compare(job, planned.blueprint.get())
                         : std::vector<Placing>();
  if (wishes.compare) {
    print_comparison(tried);
  }
  if (wishes.explain && offloads) {
    std::printf("why: %s\n", planned.why.c_str());
    print_reasons(reasons(*planned.blueprint, planned.budgets), *planned.blueprint);
    print_alternatives(tried);
  } else if (wishes.explain) {
    print_explanation(recompute_options(job, planned), planned);
  }
  if (wishes.explain && !planned.speculated_why.empty()) {
    std::printf("speculation: %s\n", planned.speculated_why.c_str());
  }
  if (wishes.explain) {
    print_placements(placement_options(planned));
  }
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
  const auto has = [&](const char* option) { return args.options.contains(option); };
  const Wishes wishes{has("--json"), has("--explain"), has("--compare")};
  std::vector<RankPeak> ranks;
  const Planned planned = plan_or_compare(job, ranks, wishes.compare && !wishes.json);
  if (has("--program")) {
    std::ostringstream program;
    program << planned.blueprint->step_program();
    std::printf("%s", program.str().c_str());
  }
  if (has("--svg")) {
    io::replace_file(args.options.at("--svg"), plan_svg(planned));
  }
  (wishes.json ? print_json : print_text)(job, planned, ranks, wishes);
  require_fit(job, planned);
  return 0;
}

}  // namespace strata::launch
