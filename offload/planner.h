#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/memory.h"
#include "core/program.h"

namespace strata::offload {

/// Byte budgets by tier; a tier that is absent has none.
using Budgets = std::map<Tier, std::int64_t>;

/// A part of a step, or a program beside it.
enum class Phase : std::uint8_t { forward, backward, update, snapshot, evaluation };
std::string_view to_string(Phase phase);

/// The fullest moment of a phase.
struct PhasePlan {
  std::int64_t peak_bytes = 0;
  std::map<std::string, std::int64_t> labels;  // at that moment: they add up to the peak
};

struct TierPlan {
  std::int64_t peak_bytes = 0;
  std::int64_t arena_bytes = 0;  // what is reserved: peak plus what static placement loses
  std::map<std::string, std::int64_t> labels;  // peak by label
  std::map<Phase, PhasePlan> phases;           // of the programs planned
};

/// Programs with a place for every pack: static offsets in one arena per tier, predicted bytes.
struct Plan {
  std::map<PackKey, std::int64_t> offset;  // in the device arena
  PackSizes sizes;
  std::map<Tier, TierPlan> tiers;
};

/// Places every pack of the programs (which run one after the other over the same residents). No
/// budget is checked. Residents come first, in the order of their keys: those of two plans that
/// begin alike lie alike.
Plan make_plan(std::span<const Program> programs, const PackSizes& sizes);
/// What both need, one at a time: the larger of each.
void cover(std::map<Tier, TierPlan>& tiers, const std::map<Tier, TierPlan>& others);
/// What does not fit: the tier, what it needs, what the budget is, how much is missing, the largest
/// part. Absent when all fits.
std::optional<std::string> misfit(const Plan& plan, const Budgets& budgets);
/// Throws infeasible with that and what to change.
void require_fit(const Plan& plan, const Budgets& budgets);

/// "512.0 MiB", "1.25 GiB".
std::string bytes_text(std::int64_t bytes);

}  // namespace strata::offload
