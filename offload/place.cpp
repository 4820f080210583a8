// Programs with transfers, and a place for everything.
#include <algorithm>
#include <utility>

#include "offload/transfer_list.h"
#include "offload/transfers.h"

namespace strata::offload {

std::map<Tier, std::int64_t> least_bytes(const Program& program,
                                         const Placement& placement,
                                         const PackSizes& sizes) {
  Budgets tiers{{Tier(), 0}};
  const auto add = [&](const auto& places) {
    for (const auto& [key, tier] : places) {
      tiers[tier] = 0;
    }
  };
  add(placement.homes);
  add(placement.waits_in);
  add(placement.update_in);
  std::map<Tier, std::int64_t> least;
  const TransferList list(program, placement, sizes, tiers);
  for (const auto& [tier, peak] : list.rooms().peaks()) {
    least[tier] = peak.size_bytes;
  }
  return least;
}

Plan place(std::span<Program* const> programs,
           const Placement& placement,
           const PackSizes& sizes,
           const Timing& timing,
           const Budgets& budgets) {
  // Static places lose some bytes between them; what is lost, leads and tails must do without.
  constexpr int kTries = 20;
  std::vector<Program> bare;
  Budgets allowed = budgets, lost;
  for (auto& [tier, bytes] : allowed) {
    bytes = bytes == kLeast ? 0 : bytes;
  }
  for (const Program* const program : programs) {
    bare.push_back(*program);
    for (const auto& [tier, bytes] : least_bytes(*program, placement, sizes)) {
      if (const auto budget = budgets.find(tier);
          budget != budgets.end() && budget->second == kLeast) {
        allowed[tier] = std::max(allowed[tier], bytes);
      }
    }
  }
  for (int attempt = 1;; ++attempt) {
    for (std::size_t k = 0; k < programs.size(); ++k) {
      *programs[k] = with_transfers(bare[k], placement, sizes, timing, allowed, Effort::full, lost);
    }
    Plan plan = make_plan(programs, sizes);
    Budgets reached;
    bool fits = true;
    for (const auto& [tier, planned] : plan.tiers) {
      const auto budget = budgets.find(tier);
      const std::int64_t most = budget == budgets.end() ? 0 : budget->second;
      reached[tier] = most == kLeast ? planned.arena_bytes : most;
      const std::int64_t over = planned.arena_bytes - reached[tier];
      if (over > 0 && tier.kind != TierKind::nvme) {
        lost[tier] += attempt < kTries / 2 ? (over + 1) / 2 : over;
        fits = false;
      }
    }
    if (fits || attempt == kTries) {
      require_fit(plan, reached);
      return plan;
    }
  }
}

}  // namespace strata::offload
