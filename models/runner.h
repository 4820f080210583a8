#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/block.h"
#include "core/executor.h"

namespace strata::models {

/// Obeys forward, recompute and backward: binds packs to the recorded graph of a block and runs it.
class GraphRunner final : public BlockRunner {
 public:
  /// B sequences of T tokens a micro-batch, activations and working weights in `dtype`. The blocks
  /// outlive it.
  GraphRunner(std::span<const std::unique_ptr<Block>> blocks,
              std::int64_t B,
              std::int64_t T,
              std::int64_t C,
              DType dtype,
              BlockProgram::Use use,
              std::uint64_t seed);
  ~GraphRunner() override;

  /// Bytes of every weights, grads, borrowed_grads, boundary, boundary_grad, saved and workspace
  /// pack. State packs are the updater's. Micro-batches [begin, end).
  PackSizes pack_sizes(int first_micro_batch, int last_micro_batch) const;
  const BlockProgram& block_program(int block) const;
  std::vector<Borrow> borrows() const;
  const PackLayout& weights_layout(int block) const;

  void forward(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  void recompute(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;
  void backward(const Instruction& instruction, const Held& packs, StepScalars& scalars) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::models
