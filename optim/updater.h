#pragma once
#include <memory>
#include <span>
#include <vector>

#include "core/block.h"
#include "core/executor.h"
#include "core/state_dict.h"
#include "optim/optimizer.h"

namespace strata::optim {

/// Where the parameters of one block lie in its weights, grads and state packs, and which ranges
/// are ours.
struct BlockState {
  PackLayout weights;  // by own parameter
  PackLayout grads;
  std::int64_t state_bytes = 0;
  std::int64_t turn_state_bytes = 0;
  StateDict entries;  // weights as their format keeps them and every field, this rank's ranges
};

/// Obeys norm, stats and update: cuts slices out of packs and hands them to the method.
class OptimizerUpdater final : public Updater {
 public:
  /// `seed`: of turns. `working`: of the weights that are computed with; f32 in WeightFormat::f32,
  /// f32 or bf16 beside int8 codes, bf16 in the others. `specs`: one per block, in order. `shards`:
  /// ranges of every tensor and their owners; empty: all ours. Throws internal when the ranges of a
  /// tensor do not cover it once, or are cut where the method or the norm chunk (kChunk) does not
  /// allow it.
  OptimizerUpdater(std::shared_ptr<Optimizer> method,
                   std::vector<BlockSpec> specs,
                   std::vector<ShardSpec> shards,
                   int rank,
                   WeightFormat format,
                   DType working,
                   std::uint64_t seed = 0);
  ~OptimizerUpdater() override;
  /// Where parameters take turns: who has one in this step, and with it layouts and entries, as of
  /// now. Before: the turns of step 1.
  void enter(std::int64_t step);
  /// By block and parameter.
  std::vector<std::vector<Turn>> turns(std::int64_t step) const;
  /// Factors of a matrix (BlockSpec::factors) start anew every so many steps: the age of their
  /// state is counted from there. 0: never.
  void restart_factors_every(std::int64_t steps);
  /// The moments of one parameter become those of a fresh one, in what this rank owns of it.
  void forget(int block, TensorId tensor, std::span<std::byte> state) const;
  /// Steps of a period; 0: no turns are taken. The period of a step, from 0.
  std::int64_t period_steps() const;
  std::int64_t period_of(std::int64_t step) const;
  /// Blocks none of whose parameters train now, and blocks that have turn_state; ascending.
  std::vector<int> frozen() const;
  std::vector<int> in_turn() const;
  const BlockState& block(int index) const;
  std::int64_t workspace_bytes() const;
  /// Reductions that the method needs before an update; StepShape::stat_phases of the program.
  int stat_phases() const;
  /// Fills a fresh state pack: zeros, then Optimizer::init, then what the weight format keeps of
  /// the working weights.
  void init_state(int block, std::span<std::byte> weights, std::span<std::byte> state) const;
  /// The same of what begins with a turn.
  void init_turn(int block, std::span<std::byte> weights, std::span<std::byte> turn_state) const;
  /// Enters precise weights at the start of a run: elements [begin, begin + values) of a tensor,
  /// begin a multiple of kWeightGroup, into what this rank owns of it.
  void start_weights(int block,
                     TensorId tensor,
                     std::int64_t begin,
                     std::span<const float> values,
                     std::span<std::byte> weights,
                     std::span<std::byte> state,
                     std::span<std::byte> turn_state = {}) const;
  /// partials[block] gets one entry per kChunk elements of each parameter, in order; chunks that
  /// another rank owns are 0, so that ranks are combined by adding element by element.
  void norm(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  /// scalars.stats gets one slot per active parameter and piece (cut_unit) for every phase so far.
  void stats(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  /// Where the next generation is among `packs` (stats and update before `decide`), the first of
  /// them copies the current one there; only the copy is changed, with grad_scale 1.
  void update(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::optim
