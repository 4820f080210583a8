#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/block.h"
#include "core/state_dict.h"
#include "optim/updater.h"
#include "parallel/collectives.h"

namespace strata::launch {

/// Which of how many ranks, and how many of them are on its machine.
struct RankPlace {
  int rank = 0, world = 1;
  int on_machine = 1;
};

/// Owners of every tensor's ranges, cut where the method and the norm's chunks allow it.
std::vector<ShardSpec> make_shards(const optim::Optimizer& method,
                                   std::span<const BlockSpec> specs,
                                   WeightFormat format,
                                   DType working,
                                   int world);

/// What the ranks do together in a step. `shards`: empty for replicated data parallelism.
parallel::Together make_together(std::span<const BlockSpec> specs,
                                 const optim::OptimizerUpdater& updater,
                                 std::span<const ShardSpec> shards,
                                 DType weight_dtype);

/// The entries that `place.rank` writes into a checkpoint when every rank holds all of them: whole
/// tensors, so that every writer has about the same bytes.
StateDict own_share(const StateDict& all, std::span<const BlockSpec> specs, RankPlace place);

}  // namespace strata::launch
