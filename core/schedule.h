#pragma once
#include <cstdint>
#include <vector>

#include "core/program.h"

namespace strata {

/// In which order blocks and micro-batches meet.
enum class Order : std::uint8_t {
  micro_batch_major,  // micro-batch 0 through all blocks and back, then 1, ...
  layer_major,  // all micro-batches through a block before the next: a weight is needed once per
                // pass
};
/// When optimizer updates run. All but `immediate` are exact under global-norm clipping.
enum class UpdateMode : std::uint8_t {
  after_norm,    // after `decide`
  speculative,   // right after a block's last backward, into the next generation, assuming no
                 // clipping
  immediate,     // there too, and for good: each block is clipped by its own norm or not at all
  lazy_forward,  // right before a block's forward of the next step, or when weights are asked for
  hybrid,        // speculative of StepShape::speculated, lazy_forward of the others
};

/// What a schedule needs to know: no bytes, no places, no devices.
struct StepShape {
  int blocks = 0;
  int micro_batches = 0;  // G, of all ranks together
  int rank = 0, world = 1;
  Summation summation = Summation::run;
  std::vector<Borrow> borrows = {};
  int stat_phases = 0;               // reductions that each update needs first (Optimizer::needs)
  std::vector<int> recomputed = {};  // blocks whose saved activations are dropped and recomputed
  std::vector<int> frozen = {};      // blocks that do not train now, ascending
  std::vector<int> in_turn = {};     // blocks with state for their turn alone, ascending
  bool lazy = false;  // some updates are put off: their gradients last between programs
  std::vector<int> speculated = {};  // UpdateMode::hybrid: blocks of which they are not, ascending
};

/// The same with `lazy` and `speculated` as a mode has them. `speculated` blocks, at most all that
/// train, in UpdateMode::hybrid: those whose gradients are complete first, since the rest of
/// backward then hides their updates.
StepShape with_updates(StepShape shape, UpdateMode mode, int speculated = 0);

/// Pure functions from shape to order; places and transfers are added by offload/planner.
Program make_step(const StepShape& shape, Order order, UpdateMode mode);
/// Forward only: the loss of every micro-batch.
Program make_evaluation(const StepShape& shape);
/// Forward of one micro-batch up to the logits; weights are all it needs in place.
Program make_inference(const StepShape& shape);
/// Weights and state of every block, one after the other, to the checkpointer.
Program make_snapshot(const StepShape& shape);

/// The updates that a lazy step has put off.
Program make_flush(const StepShape& shape);
/// Weights and state of every block, one after the other, from the loader.
Program make_load(const StepShape& shape);

}  // namespace strata
