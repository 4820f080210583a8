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

namespace {

/// Programs with transfers and places, as far as they were brought to fit.
struct Placed {
  std::vector<Program> programs;
  Plan plan;
  Budgets reached;
  bool fits = false, at_once = false;  // without keeping anything free
};

/// Static places lose some bytes between them; what is lost, leads and tails must do without.
class Placer {
 public:
  Placer(std::span<Program* const> programs,
         const Placement& placement,
         const PackSizes& sizes,
         const Timing& timing,
         const Budgets& budgets)
      : placement_(placement),
        sizes_(sizes),
        timing_(timing),
        budgets_(budgets),
        allowed_(budgets) {
    for (auto& [tier, bytes] : allowed_) {
      bytes = bytes == kLeast ? 0 : bytes;
    }
    for (const Program* const program : programs) {
      bare_.push_back(*program);
      for (const auto& [tier, bytes] : least_bytes(*program, placement, sizes)) {
        if (const auto budget = budgets.find(tier);
            budget != budgets.end() && budget->second == kLeast) {
          allowed_[tier] = std::max(allowed_[tier], bytes);
        }
      }
    }
  }

  Placed place(bool apart) const {
    constexpr int kTries = 20;
    Drafting drafting{.apart = apart};
    Placed placed;
    for (int attempt = 1; attempt <= kTries && !placed.fits; ++attempt) {
      placed = draw(drafting);
      placed.at_once = placed.fits && attempt == 1;
      for (const auto& [tier, planned] : placed.plan.tiers) {
        const std::int64_t over = planned.arena_bytes - placed.reached[tier];
        if (over > 0 && tier.kind != TierKind::nvme) {
          drafting.kept_free[tier] += attempt < kTries / 2 ? (over + 1) / 2 : over;
        }
      }
    }
    return placed;
  }
  /// Of the steps among them.
  double seconds(const Placed& placed) const {
    double seconds = 0;
    for (const Program& program : placed.programs) {
      if (program.kind == ProgramKind::train) {
        seconds += simulate(program, sizes_, timing_).seconds;
      }
    }
    return seconds;
  }

 private:
  Placed draw(const Drafting& drafting) const {
    Placed placed;
    std::vector<Program*> all;
    for (const Program& program : bare_) {
      placed.programs.push_back(
          with_transfers(program, placement_, sizes_, timing_, allowed_, drafting));
    }
    for (Program& program : placed.programs) {
      all.push_back(&program);
    }
    placed.plan = make_plan(all, sizes_);
    placed.fits = true;
    for (const auto& [tier, planned] : placed.plan.tiers) {
      const auto budget = budgets_.find(tier);
      const std::int64_t most = budget == budgets_.end() ? 0 : budget->second;
      placed.reached[tier] = most == kLeast ? planned.arena_bytes : most;
      placed.fits = placed.fits &&
                    (tier.kind == TierKind::nvme || planned.arena_bytes <= placed.reached[tier]);
    }
    return placed;
  }

  const Placement& placement_;
  const PackSizes& sizes_;
  const Timing& timing_;
  const Budgets& budgets_;
  Budgets allowed_;
  std::vector<Program> bare_;
};

}  // namespace

Plan place(std::span<Program* const> programs,
           const Placement& placement,
           const PackSizes& sizes,
           const Timing& timing,
           const Budgets& budgets) {
  const Placer placer(programs, placement, sizes, timing, budgets);
  Placed best = placer.place(false);
  // What lies at both ends of a step is hard to place beside others: steps apart may lose less.
  if (!best.at_once) {
    Placed apart = placer.place(true);
    if (apart.fits && (!best.fits || placer.seconds(apart) < placer.seconds(best))) {
      best = std::move(apart);
    }
  }
  require_fit(best.plan, best.reached);
  for (std::size_t k = 0; k < programs.size(); ++k) {
    *programs[k] = std::move(best.programs[k]);
  }
  return std::move(best.plan);
}

}  // namespace strata::offload
