#pragma once
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "offload/placement.h"
#include "offload/transfers.h"
#include "offload/written_bytes.h"

namespace strata::offload {

/// What placements are compared for: programs over the same residents, the one whose time counts
/// first, the bytes of each tier, and what that one may write to files. No budget is kLeast.
struct PlacementTask {
  std::vector<const Program*> programs;
  const PackSizes& sizes;
  const Timing& timing;
  const Budgets& budgets;
  std::int64_t most_written = kAnyWrites;
};

/// Kinds of bytes that a placement deals with, in the order of `Tiers`.
inline constexpr std::array<Tier Tiers::*, 4> kPackKinds{
    &Tiers::grads, &Tiers::activations, &Tiers::state, &Tiers::weights};

using TiersByBlock = std::vector<Tiers>;

struct Verdict {
  double seconds = std::numeric_limits<double>::infinity();  // of the step; finite: it fits
  std::int64_t missing_bytes = 0;  // of all tiers together, and written too many
};

/// Asks the simulator how long the step takes under a placement, and the transfers whether it fits;
/// remembers what it was asked.
class PlacementJudge {
 public:
  PlacementJudge(const PlacementTask& task, Effort effort);
  Verdict operator()(const TiersByBlock& tiers);
  /// Programs written, so far.
  int judged() const { return judged_; }
  /// The fastest of those asked about that hold for all programs; empty: none.
  const TiersByBlock& best() const { return best_; }
  double best_seconds() const { return best_seconds_; }
  /// As long as none holds: the one that is short of the fewest bytes.
  const TiersByBlock& nearest() const { return nearest_; }
  int blocks() const { return blocks_; }
  /// Of one kind (kPackKinds) of a block, when all its packs are there at a time.
  std::int64_t bytes(std::size_t kind, int block) const {
    return bytes_[kind][static_cast<std::size_t>(block)];
  }
  /// Throws infeasible: what a placement is short of.
  [[noreturn]] void refuse(const TiersByBlock& tiers);

 private:
  std::string code(const TiersByBlock& tiers) const;
  Budgets bytes_in_files(const Placement& placement) const;
  std::int64_t beyond_budget(Tier tier, std::int64_t bytes) const;
  std::int64_t missing(const Program& program, const Placement& placement) const;
  std::int64_t beyond_writes(std::int64_t bytes) const;
  Verdict look(const TiersByBlock& tiers);

  const PlacementTask task_;
  const Effort effort_;
  int blocks_ = 0;
  PackSizes used_;  // of packs that the programs have
  std::array<std::vector<std::int64_t>, 4> bytes_;
  std::map<std::string, Verdict> known_;
  TiersByBlock best_, nearest_;
  std::int64_t least_missing_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t least_written_ = kAnyWrites;  // of those with room for all
  double best_seconds_ = std::numeric_limits<double>::infinity();
  int judged_ = 0;
};

}  // namespace strata::offload
