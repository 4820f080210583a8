#pragma once
#include <memory>
#include <span>
#include <vector>

#include "core/block.h"
#include "core/executor.h"

namespace strata::models {

/// Micro-batches of B sequences of T tokens, C channels wide, with activations and working weights
/// in `dtype`. This rank's micro-batches are [first_micro_batch, last_micro_batch).
struct RunnerConfig {
  std::int64_t B = 0, T = 0, C = 0;
  DType dtype = DType::f32;
  BlockProgram::Use use = BlockProgram::Use::train;
  int first_micro_batch = 0;
  int last_micro_batch = 1;
  std::vector<BlockProgram::Keep> keep = {};       // by block; empty: all
  ActivationCodec codec = ActivationCodec::exact;  // of all blocks but the first and the last
};

/// Obeys forward, recompute and backward: binds packs to the recorded graph of a block and runs it.
/// Blocks of one kind that keep the same share one graph. Seed and step of the randomness are those
/// of `scalars.inputs.info`.
class GraphRunner final : public BlockRunner {
 public:
  /// The blocks outlive it.
  GraphRunner(std::span<const std::unique_ptr<Block>> blocks, const RunnerConfig& config);
  ~GraphRunner() override;

  /// Which blocks do not train from now on (Program::frozen). Before: all do.
  void freeze(std::span<const int> frozen);

  /// Bytes of every weights, grads, borrowed_grads, boundary, boundary_grad, saved and workspace
  /// pack that programs of this use touch with what is frozen now; multiples of 4096. A workspace
  /// serves every choice of frozen blocks so far. State packs are the updater's.
  PackSizes pack_sizes() const;
  const BlockProgram& block_program(int block) const;
  std::vector<Borrow> borrows() const;
  /// Where a block's own parameters lie in its weights pack, in `dtype`.
  const PackLayout& weights_layout(int block) const;

  /// In Use::train the last block also runs its backward; in Use::logits it writes the logits
  /// (B, T, V) f32 to the boundary behind it, {boundary, blocks, micro-batch}.
  void forward(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  void recompute(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  void backward(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::models
