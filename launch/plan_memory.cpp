// Where the bytes of a job are: the device alone, or the fastest of what its tiers allow.
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/offloading.h"

namespace strata::launch {
namespace {

using Device = MemorySettings::Device;
using offload::Recompute;
using offload::Tiers;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};

/// What may be elsewhere, from little to all; `low`: the tier with room, `near`: memory, or `low`
/// again where there is none.
void add_placements(std::vector<Tiers>& menu, Tier low, Tier near) {
  const Tier update = near.kind == TierKind::nvme ? kDevice : near;
  const Tiers choices[] = {
      {.state = low, .grads = near, .update = update},
      {.state = low},
      {.state = low, .grads = near, .activations = near, .update = update},
      {.weights = near, .state = low, .grads = near, .update = update},
      {.weights = near, .state = low, .grads = near, .activations = near, .update = update},
      {.weights = low, .state = low, .grads = near, .update = update},
      {.weights = low, .state = low},
      {.weights = low, .state = low, .grads = low, .update = update},
      {.weights = low, .state = low, .grads = low, .activations = low, .update = update},
      {.weights = low, .state = low, .grads = low, .activations = low},
  };
  for (const Tiers& tiers : choices) {
    if (std::find(menu.begin(), menu.end(), tiers) == menu.end()) {
      menu.push_back(tiers);
    }
  }
}

std::vector<Tiers> menu_of(const offload::Budgets& budgets) {
  std::vector<Tiers> menu;
  const bool host = budgets.contains(kHost), nvme = budgets.contains(kNvme);
  if (host) {
    add_placements(menu, kHost, kHost);
  }
  if (nvme) {
    add_placements(menu, kNvme, host ? kHost : kNvme);
  }
  return menu;
}

std::vector<offload::RecomputeChoice> recompute_menu(const MemorySettings& memory, int blocks) {
  if (!memory.recompute.automatic) {
    return {choice_of(memory.recompute, blocks)};
  }
  std::vector<offload::RecomputeChoice> menu;
  for (const Recompute r : {Recompute::none, Recompute::elementwise, Recompute::block}) {
    menu.emplace_back(static_cast<std::size_t>(blocks), r);
  }
  return menu;
}

/// The blueprint of one placing; absent: it does not fit.
std::unique_ptr<Blueprint> draft(Computation computation,
                                 const Offloading& offloading,
                                 std::string& why_not) {
  computation.offloading = std::make_shared<const Offloading>(offloading);
  try {
    auto blueprint = std::make_unique<Blueprint>(computation);
    return blueprint;
  } catch (const Error& error) {
    if (error.code() != Errc::infeasible) {
      throw;
    }
    why_not = error.what();
    return nullptr;
  }
}

/// Budgets as the plan came to use them where they were to be the least.
offload::Budgets settled(const offload::Budgets& budgets, const offload::Plan& plan) {
  offload::Budgets all = budgets;
  for (auto& [tier, bytes] : all) {
    const auto planned = plan.tiers.find(tier);
    if (bytes == offload::kLeast) {
      bytes = planned == plan.tiers.end() ? 0 : planned->second.arena_bytes;
    }
  }
  return all;
}

}  // namespace

Planned plan_memory(Computation computation, const MemorySettings& memory, const IoSettings& io) {
  const bool named = !memory.placement.empty();
  Planned resident = plan_activations(computation, memory);
  const bool minimum = memory.device == Device::minimum;
  const auto offloading = offloading_of(
      memory, io, minimum ? offload::kLeast : resident.budgets.at(kDevice), computation.place);
  if (!offloading || (!named && !minimum && resident.fits())) {
    return resident;
  }
  const std::vector<Tiers> menu =
      named ? std::vector{offloading->tiers} : menu_of(offloading->budgets);
  std::unique_ptr<Blueprint> best;
  std::string why_not;
  const auto cost = [&](const Blueprint& b) {
    const auto device = static_cast<double>(b.plan().tiers.at(kDevice).arena_bytes);
    return std::pair(minimum ? device : 0.0, b.simulate_step()->seconds);
  };
  for (const Tiers& tiers : menu) {
    for (const auto& recompute : recompute_menu(memory, static_cast<int>(computation.model.L))) {
      Offloading one = *offloading;
      one.tiers = tiers;
      computation.recompute = recompute;
      auto blueprint = draft(computation, one, why_not);
      if (blueprint && (!best || cost(*blueprint) < cost(*best))) {
        best = std::move(blueprint);
      }
    }
  }
  if (!best) {
    throw Error(Errc::infeasible, why_not);
  }
  const Offloading& chosen = *best->computation().offloading;
  std::string why = named ? "memory.placement says so"
                          : fmt::format("auto: the {} of {} placings, {}",
                                        minimum ? "smallest" : "fastest",
                                        menu.size(),
                                        offload::to_string(chosen.tiers));
  offload::Budgets budgets = settled(chosen.budgets, best->plan());
  return {std::move(best), std::move(budgets), std::move(why)};
}

}  // namespace strata::launch
