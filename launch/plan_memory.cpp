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
#include "launch/placing_menu.h"
#include "launch/placings.h"
#include "launch/speculation.h"

namespace strata::launch {
namespace {

using Device = MemorySettings::Device;
using offload::Tiers;

constexpr Tier kDevice{TierKind::device, 0}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0},
    kFar{TierKind::far, 0};

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
  /// The best of them, block by block, and with the activations of fewer tokens on their way, if
  /// that is faster by what is worth telling.
  void refine() {
    if (!best_ || best_->computation().offloading == nullptr) {
      return;
    }
    Offloading searched = *best_->computation().offloading;
    searched.search = true;
    try_instead(std::move(searched));
    for (const int eighths : {6, 4, 2}) {
      Offloading fewer = *best_->computation().offloading;
      fewer.search = false;
      const bool moves = set_eighths(fewer.tiers, eighths) && fewer.by_block.empty();
      const auto changed = std::ranges::count_if(
          fewer.by_block, [&](Tiers& tiers) { return set_eighths(tiers, eighths); });
      if (best_->computation().G > 1 && (moves || changed > 0)) {
        try_instead(std::move(fewer));
      }
    }
  }

  /// Where nothing of the menu fits, since it has tiers that are enough only together, or all of it
  /// writes too much: block by block, with the recompute that needs least memory, and with less of
  /// it as long as that fits.
  void rescue() {
    const bool together =
        offloading_.budgets.contains(kPinned) || offloading_.budgets.contains(kFar);
    const bool writes = std::ranges::any_of(all_, [](const Placing& p) {
      return p.misfit && p.misfit->of == offload::Misfit::Of::writes;
    });
    if (best_ || !(together || writes)) {
      return;
    }
    Offloading one = offloading_;
    one.search = true;
    computation_.offloading = std::make_shared<const Offloading>(std::move(one));
    for (auto recompute = recompute_.rbegin(); recompute != recompute_.rend(); ++recompute) {
      computation_.recompute = *recompute;
      try {
        keep(std::make_unique<Blueprint>(computation_));
      } catch (const offload::Infeasible& error) {
        searched_ = best_ ? std::nullopt : std::optional(error.misfit());
        return;
      }
    }
  }

  /// What the search was short of, where that is no room but writes.
  std::optional<offload::Misfit> least_writes() const {
    return searched_ && searched_->of == offload::Misfit::Of::writes ? searched_ : std::nullopt;
  }
  const std::vector<Placing>& all() const { return all_; }
  std::vector<Placing> take_all() { return std::move(all_); }
  std::unique_ptr<Blueprint> take_best() { return std::move(best_); }
  /// What lacks least: of those that have room for all, where there are any.
  const Placing& nearest() const {
    return *std::ranges::min_element(all_, {}, [](const Placing& p) {
      return std::pair(p.misfit && p.misfit->of == offload::Misfit::Of::room,
                       p.misfit ? p.misfit->missing_bytes() : 0);
    });
  }

 private:
  using Cost = std::tuple<std::int64_t, std::int64_t, double>;

  void add(const Tiers& tiers) {
    try {
      keep(draw(tiers));
    } catch (const offload::Infeasible& error) {
      all_.push_back({.tiers = tiers,
                      .recompute = offload::to_string(computation_.recompute),
                      .misfit = error.misfit(),
                      .reserved_bytes = {},
                      .bound_by = {}});
    }
  }
  void keep(std::unique_ptr<Blueprint> blueprint) {
    all_.push_back(placing_of(*blueprint));
    const Cost cost = cost_of(all_.back());
    if (!best_ || cost < best_cost_) {
      best_ = std::move(blueprint);
      best_cost_ = cost;
    }
  }
  std::unique_ptr<Blueprint> draw(const Tiers& tiers) {
    if (tiers != Tiers() || !offloading_.by_block.empty()) {
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
  static bool set_eighths(Tiers& tiers, int eighths) {
    tiers.eighths = eighths;
    return tiers.activations != Tier();
  }
  void try_instead(Offloading offloading) {
    constexpr double kWorth = 0.99;
    Computation c = best_->computation();
    c.offloading = std::make_shared<const Offloading>(std::move(offloading));
    try {
      auto found = std::make_unique<Blueprint>(c);
      const double seconds = placing_of(*found).seconds;
      if (seconds < kWorth * std::get<double>(best_cost_)) {
        best_ = std::move(found);
        std::get<double>(best_cost_) = seconds;
      }
    } catch (const offload::Infeasible&) {
      return;  // less room, or too much of it is lost between static places
    }
  }
  /// Bytes where as few as possible are asked for, then time.
  Cost cost_of(const Placing& p) const {
    const auto least = [&](Device wish, Tier tier) -> std::int64_t {
      const auto bytes = p.reserved_bytes.find(tier);
      return wish == Device::minimum && bytes != p.reserved_bytes.end() ? bytes->second : 0;
    };
    return {least(memory_.device, kDevice),
            least(memory_.pinned.how, kPinned) + least(memory_.host, kHost) +
                least(memory_.far.how, kFar),
            p.seconds};
  }

  Computation computation_;
  const MemorySettings& memory_;
  const Offloading offloading_;
  const std::vector<offload::RecomputeChoice> recompute_;
  std::vector<Placing> all_;
  std::unique_ptr<Blueprint> best_;
  Cost best_cost_;
  std::optional<offload::Misfit> searched_;  // what the search without a result was short of
};

int blocks_of(const Computation& computation) {
  return static_cast<int>(computation.model.L) + 2;
}

std::int64_t device_budget(const MemorySettings& memory, const Planned& resident) {
  return memory.device == Device::minimum ? offload::kLeast : resident.budgets.at(kDevice);
}

Planned plan_places(Computation computation, const MemorySettings& memory, const IoSettings& io) {
  const bool named = !memory.placement.empty(), minimum = memory.device == Device::minimum;
  Planned resident = plan_activations(computation, memory);
  const auto offloading = offloading_of(
      memory, io, device_budget(memory, resident), blocks_of(computation), computation.place);
  if (!offloading || (!named && !minimum && resident.fits())) {
    return resident;
  }
  const std::optional<offload::Misfit> alone = misfit(resident.blueprint->plan(), resident.budgets);
  resident.blueprint.reset();
  Tries tries(std::move(computation), memory, *offloading);
  tries.add(named ? std::vector{offloading->tiers} : menu_of(offloading->budgets));
  const bool least =  // as little as it takes, not time
      minimum || memory.host == Device::minimum || memory.pinned.how == Device::minimum ||
      memory.far.how == Device::minimum;
  if (!named && !least) {
    tries.refine();
    tries.rescue();
  }
  auto best = tries.take_best();
  if (!best) {
    if (const auto writes = tries.least_writes()) {
      throw offload::Infeasible(*writes);
    }
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
  return {std::move(best), std::move(budgets), std::move(why), {}};
}

}  // namespace

Planned plan_memory(Computation computation, const MemorySettings& memory, const IoSettings& io) {
  return with_speculation(plan_places(std::move(computation), memory, io));
}

std::vector<Placing> compare_placings(Computation computation,
                                      const MemorySettings& memory,
                                      const IoSettings& io,
                                      const Blueprint* chosen) {
  if (chosen != nullptr) {
    computation.speculated = chosen->computation().speculated;
  }
  const Planned resident = plan_activations(computation, memory);
  const std::int64_t device = device_budget(memory, resident);
  auto offloading = offloading_of(memory, io, device, blocks_of(computation), computation.place);
  if (!offloading) {
    offloading = device_alone();
    offloading->budgets[kDevice] = device;
  }
  if (!offloading->by_block.empty()) {  // compared as what was chosen
    offloading->by_block.clear();
    offloading->tiers = {};
  }
  std::vector<Tiers> menu = menu_of(offloading->budgets);
  menu.insert(menu.begin(), Tiers());
  if (std::ranges::find(menu, offloading->tiers) == menu.end()) {
    menu.push_back(offloading->tiers);
  }
  Tries tries(std::move(computation), memory, *offloading);
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
