// strata plan: what a run will need, exactly, before anything is allocated.
#include <cstdio>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/plan_report.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

const std::vector<Option> kOptions{{"--json", "", "print one JSON object"},
                                   {"--program", "", "print the instructions of a step"}};

std::string model_line(const Job& job) {
  const Computation& c = job.computation;
  return fmt::format("model: {} parameters; step: {} tokens = {} micro-batches of {} x {}; {}, {}",
                     models::parameter_count(c.model),
                     c.G * c.B * c.T,
                     c.G,
                     c.B,
                     c.T,
                     c.dtype == DType::f32 ? "f32" : "bf16 with f32 master",
                     c.method);
}

void print_table(const offload::TierPlan& device, std::int64_t budget) {
  std::printf("device: %s at the peak, %s reserved, budget %s: %s\n",
              offload::bytes_text(device.peak_bytes).c_str(),
              offload::bytes_text(device.arena_bytes).c_str(),
              offload::bytes_text(budget).c_str(),
              device.arena_bytes <= budget ? "fits" : "does not fit");
  for (const auto& [label, bytes] : device.labels) {
    std::printf("  %-16s %s\n", label.c_str(), offload::bytes_text(bytes).c_str());
  }
}

nlohmann::json as_json(const Job& job, const offload::Plan& plan, const offload::Budgets& budgets) {
  nlohmann::json tiers = nlohmann::json::object();
  bool fits = true;
  std::int64_t peak = 0;
  for (const auto& [tier, planned] : plan.tiers) {
    const std::int64_t budget = budgets.at(tier);
    fits = fits && planned.arena_bytes <= budget;
    peak += planned.peak_bytes;
    tiers[to_string(tier)] = {{"peak_bytes", planned.peak_bytes},
                              {"reserved_bytes", planned.arena_bytes},
                              {"budget_bytes", budget},
                              {"labels", planned.labels}};
  }
  return {{"fits", fits},
          {"tiers", tiers},
          {"peak_bytes", peak},
          {"parameters", models::parameter_count(job.computation.model)},
          {"micro_batch", job.computation.B},
          {"micro_batches", job.computation.G}};
}

}  // namespace

void print_summary(const Job& job) {
  std::fprintf(stderr, "%s\n", model_line(job).c_str());
  if (job.data.train) {
    std::fprintf(stderr,
                 "data: %lld tokens to train on, %lld to validate on; tokenizer %s\n",
                 static_cast<long long>(job.data.train->size()),
                 static_cast<long long>(job.data.valid ? job.data.valid->size() : 0),
                 job.data.tokenizer->kind().c_str());
  }
}

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
  const Blueprint blueprint(job.computation);
  const auto budgets = budgets_of(job.settings.config(), blueprint.plan());
  if (args.options.contains("--program")) {
    std::ostringstream program;
    program << blueprint.step_program();
    std::printf("%s", program.str().c_str());
  }
  if (args.options.contains("--json")) {
    std::printf("%s\n", as_json(job, blueprint.plan(), budgets).dump().c_str());
  } else {
    std::printf("%s\n", model_line(job).c_str());
    print_table(blueprint.plan().tiers.at(kDevice), budgets.at(kDevice));
  }
  require_fit(blueprint.plan(), budgets);
  return 0;
}

}  // namespace strata::launch
