#pragma once
#include <vector>

#include "launch/config.h"
#include "offload/activation_choice.h"
#include "offload/placement.h"

namespace strata::launch {

/// Placements that treat all blocks alike and are worth a try, of the tiers that have a budget.
std::vector<offload::Tiers> menu_of(const offload::Budgets& budgets);

/// What activations may be computed again, least work first; that which was named alone. Of a lossy
/// codec, choices by which backward reads the same: memory changes no bit.
std::vector<offload::RecomputeChoice> recompute_menu(const MemorySettings& memory, int blocks);

}  // namespace strata::launch
