#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
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
  /// In the tier's arena, of every replica that ever is: of what lasts and of what instructions
  /// create. What moves alone bring has -1: it lies where the move says, Instruction::offset.
  std::map<Replica, std::int64_t> offset;
  PackSizes sizes;
  std::map<Tier, TierPlan> tiers;
};

/// Places every pack of the programs (which run one after the other over the same residents and
/// homes) and writes into their moves where the bytes go. No budget is checked. What lasts comes
/// first, in the order of its keys: that of two plans that begin alike lies alike. In files nothing
/// shares a place.
Plan make_plan(std::span<Program* const> programs, const PackSizes& sizes);
/// What both need, one at a time: the larger of each.
void cover(std::map<Tier, TierPlan>& tiers, const std::map<Tier, TierPlan>& others);
/// A budget that does not hold what it must.
struct Misfit {
  /// What it is a budget of: room, or what a step may write to files.
  enum class Of : std::uint8_t { room, writes };
  Tier tier;
  std::int64_t needed_bytes = 0, budget_bytes = 0;
  std::string detail;  // what is the most of it, or where it is needed
  Of of = Of::room;
  std::int64_t missing_bytes() const { return needed_bytes - budget_bytes; }
};
/// "plan: tier host needs 3.0 MiB, its budget is 2.0 MiB: 1.0 MiB are missing; ...".
std::string to_string(const Misfit& misfit);
class Infeasible final : public Error {
 public:
  /// `advice`: what to change, added to the message.
  explicit Infeasible(Misfit misfit, const std::string& advice = "");
  const Misfit& misfit() const { return misfit_; }

 private:
  Misfit misfit_;
};
/// The first tier that does not fit, and its largest part. Absent when all fits.
std::optional<Misfit> misfit(const Plan& plan, const Budgets& budgets);
/// Throws infeasible with that and what to change.
void require_fit(const Plan& plan, const Budgets& budgets);

/// "512.0 MiB", "1.25 GiB".
std::string bytes_text(std::int64_t bytes);

}  // namespace strata::offload
