#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/program.h"

namespace strata::offload {

/// Byte budgets by tier; a tier that is absent has none.
using Budgets = std::map<Tier, std::int64_t>;

struct TierPlan {
  std::int64_t peak_bytes = 0;
  std::int64_t arena_bytes = 0;  // what is reserved: peak plus what static placement loses
  std::map<std::string, std::int64_t> labels;  // peak by label
};

/// Programs with a place for every pack: static offsets in one arena per tier, predicted bytes.
struct Plan {
  std::map<PackKey, std::int64_t> offset;  // in the device arena
  PackSizes sizes;
  std::map<Tier, TierPlan> tiers;
};

/// Places every pack of the programs (which run one after the other over the same residents). No
/// budget is checked.
Plan make_plan(std::span<const Program> programs, const PackSizes& sizes);
/// Throws infeasible naming the tier, what it needs, what the budget is and what to change.
void require_fit(const Plan& plan, const Budgets& budgets);

/// "512.0 MiB", "1.25 GiB".
std::string bytes_text(std::int64_t bytes);

}  // namespace strata::offload
