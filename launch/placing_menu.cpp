#include "launch/placing_menu.h"

#include <algorithm>
#include <optional>

#include "launch/recompute_setting.h"

namespace strata::launch {
namespace {

using offload::Recompute;
using offload::Tiers;

constexpr Tier kDevice{TierKind::device, 0}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0},
    kFar{TierKind::far, 0}, kNvme{TierKind::nvme, 0};

/// What may be elsewhere, from little to all; `low`: the tier with room, `near`: memory that
/// updates run in, or `low` again where there is none.
void add_placements(std::vector<Tiers>& menu, Tier low, Tier near) {
  const Tier update = offload::runs_updates(near) ? near : kDevice;
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

}  // namespace

std::vector<Tiers> menu_of(const offload::Budgets& budgets) {
  std::vector<Tiers> menu;
  std::optional<Tier> near;
  for (const Tier tier : {kHost, kPinned, kFar, kNvme}) {
    if (budgets.contains(tier)) {
      near = near || !offload::runs_updates(tier) ? near : tier;
      add_placements(menu, tier, offload::runs_updates(tier) ? tier : near.value_or(tier));
    }
  }
  return menu;
}

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

}  // namespace strata::launch
