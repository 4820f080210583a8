#include "launch/plan_report.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/forecast.h"
#include "launch/speculation.h"

namespace strata::launch {
namespace {

using offload::bytes_text;
using offload::Phase;

constexpr Tier kDevice{TierKind::device, 0};

const offload::TierPlan& device_of(const Blueprint& blueprint) {
  return blueprint.plan().tiers.at(kDevice);
}

/// A tier without one has none.
std::int64_t budget_of(const Planned& planned, Tier tier) {
  const auto budget = planned.budgets.find(tier);
  return budget == planned.budgets.end() ? 0 : budget->second;
}

RecomputeOption option_of(const Blueprint& blueprint, std::int64_t budget) {
  const offload::TierPlan& device = device_of(blueprint);
  return {.name = offload::to_string(blueprint.computation().recompute),
          .peak_bytes = device.peak_bytes,
          .reserved_bytes = device.arena_bytes,
          .extra_flops = blueprint.recompute_flops(),
          .extra_percent = 100 * blueprint.recompute_flops() / blueprint.step_flops(),
          .fits = device.arena_bytes <= budget};
}

void print_row(const std::string& name, const std::vector<std::string>& cells) {
  std::string line = fmt::format("  {:<16}", name);
  for (const std::string& cell : cells) {
    line += fmt::format("{:>12}", cell);
  }
  std::printf("%s\n", line.c_str());
}

/// Bytes by label: at the peak of each, and when each phase has most.
void print_tier(Tier tier, const offload::TierPlan& plan) {
  std::vector<std::string> titles{"peak"}, totals{bytes_text(plan.peak_bytes)};
  for (const auto& [phase, at] : plan.phases) {
    titles.emplace_back(to_string(phase));
    totals.push_back(bytes_text(at.peak_bytes));
  }
  print_row(to_string(tier) + " at peak", titles);
  for (const auto& [label, peak] : plan.labels) {
    std::vector<std::string> cells{bytes_text(peak)};
    for (const auto& [phase, at] : plan.phases) {
      const auto found = at.labels.find(label);
      cells.push_back(found == at.labels.end() ? "-" : bytes_text(found->second));
    }
    print_row(label, cells);
  }
  print_row("all", totals);
}

nlohmann::json tiers_json(const Planned& planned) {
  nlohmann::json tiers = nlohmann::json::object();
  for (const auto& [tier, plan] : planned.blueprint->plan().tiers) {
    nlohmann::json phases = nlohmann::json::object();
    for (const auto& [phase, at] : plan.phases) {
      phases[std::string(to_string(phase))] = {{"peak_bytes", at.peak_bytes},
                                               {"labels", at.labels}};
    }
    tiers[to_string(tier)] = {{"peak_bytes", plan.peak_bytes},
                              {"reserved_bytes", plan.arena_bytes},
                              {"budget_bytes", budget_of(planned, tier)},
                              {"labels", plan.labels},
                              {"phases", phases}};
  }
  return tiers;
}

/// null: everything is in the device.
nlohmann::json placement_json(const Planned& planned) {
  const auto& offloading = planned.blueprint->computation().offloading;
  return offloading ? nlohmann::json(placement_text(*offloading)) : nlohmann::json();
}

nlohmann::json recompute_json(const std::vector<RecomputeOption>& options, const Planned& planned) {
  nlohmann::json list = nlohmann::json::array();
  for (const RecomputeOption& o : options) {
    list.push_back({{"recompute", o.name},
                    {"peak_bytes", o.peak_bytes},
                    {"reserved_bytes", o.reserved_bytes},
                    {"saved_bytes", o.saved_bytes},
                    {"extra_flops", o.extra_flops},
                    {"extra_percent", o.extra_percent},
                    {"fits", o.fits},
                    {"in_use", o.in_use}});
  }
  return {{"in_use", offload::to_string(planned.blueprint->computation().recompute)},
          {"why", planned.why},
          {"options", list}};
}

/// To the byte, since labels of packs are rounded up.
std::string optimizer_line(const Blueprint& blueprint) {
  const OptimizerBytes bytes = blueprint.optimizer_bytes();
  std::string roles;
  for (const auto& [role, size] : bytes.state) {
    roles += fmt::format("{}{} {}", roles.empty() ? "" : ", ", role, size);
  }
  return fmt::format(
      "optimizer: {}, {} bytes of state{}; {} beside the weights; an update or "
      "refresh works in {}",
      blueprint.computation().method,
      bytes.all_state(),
      roles.empty() ? "" : " (" + roles + ")",
      bytes.weights,
      bytes_text(bytes.workspace));
}

nlohmann::json optimizer_json(const Blueprint& blueprint) {
  const OptimizerBytes bytes = blueprint.optimizer_bytes();
  return {{"method", blueprint.computation().method},
          {"state_bytes", bytes.all_state()},
          {"state_bytes_by_role", bytes.state},
          {"weight_bytes", bytes.weights},
          {"workspace_bytes", bytes.workspace}};
}

std::string_view weights_text(const Computation& c) {
  switch (c.weight_format()) {
    case WeightFormat::f32:
      return "f32";
    case WeightFormat::bf16_master:
      return "bf16 with f32 master";
    case WeightFormat::bf16_stochastic:
      return "bf16 rounded stochastically";
    case WeightFormat::bf16_kahan:
      return "bf16 with Kahan's residue";
    case WeightFormat::int8:
      return c.dtype == DType::f32 ? "int8 matrices, computed in f32"
                                   : "int8 matrices, computed in bf16";
  }
  return "";
}

}  // namespace

std::string model_line(const Job& job) {
  const Computation& c = job.computation;
  return fmt::format("model: {} parameters; step: {} tokens = {} micro-batches of {} x {}; {}, {}",
                     models::parameter_count(c.model),
                     c.G * c.B * c.T,
                     c.G,
                     c.B,
                     c.T,
                     weights_text(c),
                     c.method);
}

void print_summary(const Job& job, const Blueprint& blueprint) {
  std::fprintf(stderr, "%s\n", model_line(job).c_str());
  if (job.data.train) {
    std::fprintf(stderr,
                 "data: %lld tokens to train on, %lld to validate on; tokenizer %s\n",
                 static_cast<long long>(job.data.train->size()),
                 static_cast<long long>(job.data.valid ? job.data.valid->size() : 0),
                 job.data.tokenizer->kind().c_str());
  }
  std::string memory;
  for (const auto& [tier, plan] : blueprint.plan().tiers) {
    const bool alone = blueprint.plan().tiers.size() == 1;
    memory += fmt::format("{}{}{} at the peak",
                          memory.empty() ? "" : ", ",
                          alone ? "" : to_string(tier) + " ",
                          bytes_text(plan.peak_bytes));
  }
  std::fprintf(stderr,
               "memory: %s; recompute %s%s\n",
               memory.c_str(),
               offload::to_string(blueprint.computation().recompute).c_str(),
               codec_text(blueprint, "; ").c_str());
}

void print_plan(const Planned& planned) {
  const auto& tiers = planned.blueprint->plan().tiers;
  for (const auto& [tier, plan] : tiers) {
    const std::int64_t allowed = budget_of(planned, tier);
    std::printf("%s: %s at the peak, %s reserved, budget %s: %s\n",
                to_string(tier).c_str(),
                bytes_text(plan.peak_bytes).c_str(),
                bytes_text(plan.arena_bytes).c_str(),
                bytes_text(allowed).c_str(),
                plan.arena_bytes <= allowed ? "fits" : "does not fit");
  }
  if (const auto& offloading = planned.blueprint->computation().offloading) {
    std::printf("placement: %s\n", placement_text(*offloading).c_str());
  }
  std::printf("recompute: %s%s\n",
              offload::to_string(planned.blueprint->computation().recompute).c_str(),
              codec_text(*planned.blueprint, "; ").c_str());
  std::printf("%s\n", optimizer_line(*planned.blueprint).c_str());
  if (const auto line = speculation_line(*planned.blueprint)) {
    std::printf("%s\n", line->c_str());
  }
  print_forecast(forecast(*planned.blueprint));
  for (const auto& [tier, plan] : tiers) {
    print_tier(tier, plan);
  }
}

std::vector<RecomputeOption> recompute_options(const Job& job, const Planned& planned) {
  const std::int64_t budget = planned.budgets.at(kDevice);
  const std::string in_use = offload::to_string(planned.blueprint->computation().recompute);
  std::vector<RecomputeOption> options;
  for (const auto every : {offload::Recompute::none,
                           offload::Recompute::elementwise,
                           offload::Recompute::mlp,
                           offload::Recompute::projections,
                           offload::Recompute::block}) {
    Computation c = job.computation;
    c.speculated = planned.blueprint->computation().speculated;
    c.recompute.assign(static_cast<std::size_t>(c.model.L), every);
    options.push_back(option_of(Blueprint(c), budget));
  }
  if (std::ranges::find(options, in_use, &RecomputeOption::name) == options.end()) {
    options.push_back(option_of(*planned.blueprint, budget));
  }
  for (RecomputeOption& option : options) {
    option.saved_bytes = options.front().peak_bytes - option.peak_bytes;
    option.in_use = option.name == in_use;
  }
  return options;
}

void print_explanation(const std::vector<RecomputeOption>& options, const Planned& planned) {
  print_row("recompute", {"at the peak", "saves", "reserved", "extra work", "of a step", ""});
  for (const RecomputeOption& o : options) {
    print_row(o.name,
              {bytes_text(o.peak_bytes),
               bytes_text(o.saved_bytes),
               bytes_text(o.reserved_bytes),
               fmt::format("{:.3g} GF", o.extra_flops * 1e-9),
               fmt::format("{:.2f} %", o.extra_percent),
               o.in_use ? "in use"
               : o.fits ? "fits"
                        : "too much"});
  }
  std::printf("why: %s\n", planned.why.c_str());
}

nlohmann::json plan_json(const Job& job,
                         const Planned& planned,
                         const std::vector<RecomputeOption>& options) {
  std::int64_t peak = 0;
  for (const auto& [tier, plan] : planned.blueprint->plan().tiers) {
    peak += plan.peak_bytes;
  }
  return {{"fits", planned.fits()},
          {"tiers", tiers_json(planned)},
          {"placement", placement_json(planned)},
          {"step", forecast_json(forecast(*planned.blueprint))},
          {"peak_bytes", peak},
          {"recompute", recompute_json(options, planned)},
          {"activations", codec_json(*planned.blueprint)},
          {"optimizer", optimizer_json(*planned.blueprint)},
          {"speculation", speculation_json(planned)},
          {"parameters", models::parameter_count(job.computation.model)},
          {"micro_batch", job.computation.B},
          {"micro_batches", job.computation.G}};
}

std::vector<LabelPeaks> different_peaks(const offload::TierPlan& planned, const Ledger& ledger) {
  std::map<std::string, LabelPeaks> peaks;
  for (const auto& [label, bytes] : planned.labels) {
    peaks[label].planned_bytes = bytes;
  }
  for (const auto& [label, bytes] : ledger.labels(kDevice)) {
    peaks[label].used_bytes = bytes.peak;
  }
  std::vector<LabelPeaks> different;
  for (auto& [label, both] : peaks) {
    if (both.planned_bytes != both.used_bytes) {
      both.label = label;
      different.push_back(both);
    }
  }
  return different;
}

}  // namespace strata::launch
