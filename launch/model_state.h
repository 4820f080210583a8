#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/executor.h"
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
class ModelState final : public Loader {
 public:
  /// Everything passed by reference outlives it. `sharded`: this rank has the state of its shards
  /// alone.
  ModelState(PackStore& store,
             const optim::OptimizerUpdater& updater,
             std::span<const BlockSpec> specs,
             WeightPlaces places,
             WeightFormat format,
             DType dtype,
             bool sharded);
  /// What `load` brings from now on: fresh state, and weights from `weights` or, if empty, from
  /// (seed, tensor, element).
  void start_from(std::uint64_t seed, models::ParamSource weights);
  /// Or what is stored. `new_turns`: the state of turns begins anew all the same.
  void restore_from(const checkpoint::Reader& reader, bool new_turns);
  void load(const Instruction& instruction, const Held& packs) override;
  /// Fresh state of what has a turn now; its packs and the weights are resident.
  void begin_turns();
  /// The factors of every matrix that has some share its singular values, from the weights that are
  /// computed with, and their moments start anew. Uses the workspace that blocks share.
  void balance_factors();
  /// All that this rank holds, in the order of the snapshot program.
  StateDict entries() const;

 private:
  /// The packs of a block while it is filled.
  struct Packs {
    std::span<std::byte> weights, state, turn_state;
  };
  Packs packs_of(int block, const Held& held) const;
  void start(int block, const Packs& packs) const;
  void restore(int block, const Packs& packs) const;
  void write(const ParamSpec& spec,
             std::int64_t begin,
             std::span<const float> values,
             const Packs& packs) const;

  PackStore& store_;
  const optim::OptimizerUpdater& updater_;
  std::span<const BlockSpec> specs_;
  WeightPlaces places_;
  WeightFormat format_;
  DType dtype_;
  bool sharded_;
  std::uint64_t seed_ = 0;
  models::ParamSource weights_;
  const checkpoint::Reader* reader_ = nullptr;
  bool new_turns_ = false;
};

}  // namespace strata::launch
