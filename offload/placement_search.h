#pragma once
#include <cstdint>
#include <span>

#include "offload/placement_judge.h"

namespace strata::offload {

/// How far a search goes; half of it, to changes at random in the end. A count: results never
/// depend on the speed of the machine.
struct SearchSettings {
  std::int64_t instructions = 150'000;  // of programs written and simulated
  int judgements = 1500;                // such programs at most
  Effort effort = Effort::quick;
};

struct FoundPlacement {
  TiersByBlock by_block;
  Placement placement;
  double seconds = 0;         // of the step, as the simulator sees it
  double lowest_seconds = 0;  // of all that can be in the lowest tier that has room
  int judged = 0;
};

/// The bytes of each block in the lowest tier that has room: first of all gradients, then
/// activations, state, weights. Updates run in host memory where there is any.
TiersByBlock lowest_placement(const PlacementJudge& judge, const Budgets& budgets);

/// A fast placement, block by block: greedy, with the simulator as the judge. It begins with
/// everything in the lowest tier, and with the best placement that treats all blocks alike; changes
/// the tier of one kind of bytes, where updates run, or both, for all blocks, halves of them, and
/// so on down to single ones, as long as that helps by 0.1 %, what saves most seconds for its part
/// of the tier it takes up first; and at the end exchanges one for another. A pure function of the
/// task. Throws infeasible, naming the tier and the bytes that are missing in the lowest placement.
FoundPlacement search_placement(const PlacementTask& task, const SearchSettings& settings = {});

struct FoundPlan {
  FoundPlacement found;
  Plan plan;
};
/// Searches, and gives the programs their transfers and everything a place, as `place` does; the
/// first program is the step. What static places lose between them is searched without. The step
/// writes `most_written` bytes to files at most. Throws infeasible; where there is room and the
/// writes alone are too many, naming the least that was found.
FoundPlan search_and_place(std::span<Program* const> programs,
                           const PackSizes& sizes,
                           const Timing& timing,
                           const Budgets& budgets,
                           const SearchSettings& settings = {},
                           std::int64_t most_written = kAnyWrites);

}  // namespace strata::offload
