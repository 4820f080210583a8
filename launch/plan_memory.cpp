// Where the bytes of a job are: the device alone, or the fastest of what its tiers allow.
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/offloading.h"
#include "launch/placings.h"

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
    if (std::ranges::find(menu, tiers) == menu.end()) {
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

/// Of a lossy codec, choices by which backward reads the same: memory changes no bit.
std::vector<offload::RecomputeChoice> recompute_menu(const MemorySettings& memory, int blocks) {
  if (!memory.recompute.automatic) {
    return {choice_of(memory.recompute, blocks)};
  }
  std::vector<offload::RecomputeChoice> menu;
  for (const Recompute r : {Recompute::none,
                            Recompute::elementwise,
                            Recompute::mlp,
                            Recompute::projections,
                            Recompute::block}) {
    const bool keeps_all = r == Recompute::none || r == Recompute::block;
    if (keeps_all || !is_lossy(memory.activation_codec)) {
      menu.emplace_back(static_cast<std::size_t>(blocks), r);
    }
  }
  return menu;
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

/// Placings of one computation, each drawn once; the best of those that fit is kept.
class Tries {
 public:
  Tries(Computation computation, const MemorySettings& memory, Offloading offloading)
      : computation_(std::move(computation)),
        memory_(memory),
        offloading_(std::move(offloading)),
        recompute_(recompute_menu(memory, static_cast<int>(computation_.model.L))) {}

  void add(const std::vector<Tiers>& menu) {
    for (const Tiers& tiers : menu) {
      for (const auto& recompute : recompute_) {
        computation_.recompute = recompute;
        add(tiers);
      }
    }
  }
  /// The best of them, block by block, if that is faster by what is worth telling.
  void refine() {
    constexpr double kWorth = 0.99;
    if (!best_ || best_->computation().offloading == nullptr) {
      return;
    }
    Computation c = best_->computation();
    Offloading one = *c.offloading;
    one.search = true;
    c.offloading = std::make_shared<const Offloading>(std::move(one));
    try {
      auto found = std::make_unique<Blueprint>(c);
      if (placing_of(*found).seconds < kWorth * std::get<double>(best_cost_)) {
        best_ = std::move(found);
      }
    } catch (const offload::Infeasible&) {
      return;  // what it found loses too much between static places; the menu's fits
    }
  }

  const std::vector<Placing>& all() const { return all_; }
  std::vector<Placing> take_all() { return std::move(all_); }
  std::unique_ptr<Blueprint> take_best() { return std::move(best_); }
  /// What lacks least.
  const Placing& nearest() const {
    return *std::ranges::min_element(
        all_, {}, [](const Placing& p) { return p.misfit ? p.misfit->missing_bytes() : 0; });
  }

 private:
  using Cost = std::tuple<std::int64_t, std::int64_t, double>;

  void add(const Tiers& tiers) {
    try {
      auto blueprint = draw(tiers);
      all_.push_back(placing_of(*blueprint));
      const Cost cost = cost_of(all_.back());
      if (!best_ || cost < best_cost_) {
        best_ = std::move(blueprint);
        best_cost_ = cost;
      }
    } catch (const offload::Infeasible& error) {
      all_.push_back({.tiers = tiers,
                      .recompute = offload::to_string(computation_.recompute),
                      .misfit = error.misfit(),
                      .reserved_bytes = {},
                      .bound_by = {}});
    }
  }
  std::unique_ptr<Blueprint> draw(const Tiers& tiers) {
    if (tiers != Tiers()) {
      Offloading one = offloading_;
      one.tiers = tiers;
      computation_.offloading = std::make_shared<const Offloading>(std::move(one));
      return std::make_unique<Blueprint>(computation_);
    }
    computation_.offloading = nullptr;
    auto blueprint = std::make_unique<Blueprint>(computation_);
    offload::require_fit(blueprint->plan(), settled(offloading_.budgets, blueprint->plan()));
    return blueprint;
  }
  /// Bytes where as few as possible are asked for, then time.
  Cost cost_of(const Placing& p) const {
    const auto least = [&](Device wish, Tier tier) -> std::int64_t {
      const auto bytes = p.reserved_bytes.find(tier);
      return wish == Device::minimum && bytes != p.reserved_bytes.end() ? bytes->second : 0;
    };
    return {least(memory_.device, kDevice), least(memory_.host, kHost), p.seconds};
  }

  Computation computation_;
  const MemorySettings& memory_;
  const Offloading offloading_;
  const std::vector<offload::RecomputeChoice> recompute_;
  std::vector<Placing> all_;
  std::unique_ptr<Blueprint> best_;
  Cost best_cost_;
};

std::int64_t device_budget(const MemorySettings& memory, const Planned& resident) {
  return memory.device == Device::minimum ? offload::kLeast : resident.budgets.at(kDevice);
}

}  // namespace

Planned plan_memory(Computation computation, const MemorySettings& memory, const IoSettings& io) {
  const bool named = !memory.placement.empty(), minimum = memory.device == Device::minimum;
  Planned resident = plan_activations(computation, memory);
  const auto offloading =
      offloading_of(memory, io, device_budget(memory, resident), computation.place);
  if (!offloading || (!named && !minimum && resident.fits())) {
    return resident;
  }
  const std::optional<offload::Misfit> alone = misfit(resident.blueprint->plan(), resident.budgets);
  resident.blueprint.reset();
  Tries tries(std::move(computation), memory, *offloading);
  tries.add(named ? std::vector{offloading->tiers} : menu_of(offloading->budgets));
  const bool least = minimum || memory.host == Device::minimum;  // as little as it takes, not time
  if (!named && !least) {
    tries.refine();
  }
  auto best = tries.take_best();
  if (!best) {
    const Placing& nearest = tries.nearest();
    offload::Misfit misfit = *nearest.misfit;
    misfit.detail += fmt::format("; of {} placings tried that lacks least: {}",
                                 tries.all().size(),
                                 placing_name(nearest.tiers));
    throw offload::Infeasible(misfit, fmt::format(" (recompute {})", nearest.recompute));
  }
  const auto fit = std::ranges::count_if(tries.all(), [](const Placing& p) { return !p.misfit; });
  std::string why =
      named ? "memory.placement says so"
            : fmt::format("auto: {}the {} of {} placings that fit, {} tried",
                          alone ? fmt::format("the device alone lacks {}, and this is ",
                                              offload::bytes_text(alone->missing_bytes()))
                                : "",
                          minimum ? "smallest" : "fastest",
                          fit,
                          tries.all().size());
  offload::Budgets budgets = settled(offloading->budgets, best->plan());
  return {std::move(best), std::move(budgets), std::move(why)};
}

std::vector<Placing> compare_placings(const Computation& computation,
                                      const MemorySettings& memory,
                                      const IoSettings& io,
                                      const Blueprint* chosen) {
  const Planned resident = plan_activations(computation, memory);
  const std::int64_t device = device_budget(memory, resident);
  auto offloading = offloading_of(memory, io, device, computation.place);
  if (!offloading) {
    offloading = device_alone();
    offloading->budgets[kDevice] = device;
  }
  std::vector<Tiers> menu = menu_of(offloading->budgets);
  menu.insert(menu.begin(), Tiers());
  if (std::ranges::find(menu, offloading->tiers) == menu.end()) {
    menu.push_back(offloading->tiers);
  }
  Tries tries(computation, memory, *offloading);
  tries.add(menu);
  std::vector<Placing> all = tries.take_all();
  if (chosen != nullptr) {
    const Placing now = placing_of(*chosen);
    auto same = std::ranges::find_if(all, [&](const Placing& p) {
      return now.by_block.empty() && p.tiers == now.tiers && p.recompute == now.recompute;
    });
    same = same == all.end() ? all.insert(same, now) : same;
    same->chosen = true;
  }
  sort_placings(all);
  return all;
}

}  // namespace strata::launch
