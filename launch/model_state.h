#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/pack.h"
#include "core/state_dict.h"
#include "launch/weights.h"
#include "models/hf.h"
#include "models/model.h"
#include "optim/updater.h"

namespace strata::launch {

/// Workspace of ModelState::balance_factors; 0: no matrix has factors.
std::int64_t balance_factors_bytes(std::span<const BlockSpec> specs);

/// The weights and state packs of one rank: how they begin and how they come back.
class ModelState {
 public:
  /// Makes fresh state; the packs are resident in `store`. Everything passed by reference outlives
  /// it. `sharded`: this rank has the state of its shards alone.
  ModelState(PackStore& store,
             const optim::OptimizerUpdater& updater,
             std::span<const BlockSpec> specs,
             WeightPlaces places,
             WeightFormat format,
             DType dtype,
             bool sharded);
  /// Weights from `load` (streams every parameter) or, if empty, from (seed, tensor, element).
  void start(std::uint64_t seed, const std::function<void(const models::ParamSink&)>& load);
  /// `new_turns`: the state of turns begins anew, whatever is stored.
  void restore(const checkpoint::Reader& reader, bool new_turns);
  /// Fresh state of what has a turn now; its packs are resident.
  void begin_turns();
  /// The factors of every matrix that has some share its singular values, from the weights that are
  /// computed with, and their moments start anew. Uses the workspace that blocks share.
  void balance_factors();
  /// All that this rank holds, in the order of the snapshot program.
  StateDict entries() const;

 private:
  void write(const ParamSpec& spec, std::int64_t begin, std::span<const float> values);

  PackStore& store_;
  const optim::OptimizerUpdater& updater_;
  std::span<const BlockSpec> specs_;
  WeightPlaces places_;
  WeightFormat format_;
  DType dtype_;
  bool sharded_;
};

}  // namespace strata::launch
