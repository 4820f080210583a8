#pragma once
#include <span>
#include <vector>

#include "core/block.h"
#include "core/communicator.h"
#include "core/pack.h"
#include "core/param.h"

namespace strata::parallel {

/// What a rank could own of a model, before it is cut: one parameter and where it may be cut.
struct Cuttable {
  TensorId tensor = 0;
  std::int64_t numel = 0;
  /// Cuts are multiples of this; numel or more: the tensor goes to one rank whole.
  std::int64_t cut = 1;
  /// What its owner keeps of it, spread evenly over its elements: what ranks are levelled by.
  std::int64_t state_bytes = 0;
};

/// Who updates what: a pure function, so every rank computes the same and nobody has to ask. Whole
/// tensors go to the rank with the least state so far, largest first; the divisible tensors of each
/// block then fill the ranks to one level, in order. Within a block the ranges of a rank are as few
/// as can be. Shards of nothing are left out. `blocks`: the parameters of each block, in order.
std::vector<ShardSpec> partition(std::span<const std::vector<Cuttable>> blocks, int world);

/// The shares of one block's packs that follow from its shards: of the gradients in f32 values, of
/// the working weights in bytes.
struct BlockShares {
  std::vector<Share> grads, weights;
};
/// Layouts: where own parameters lie in either pack. `shards`: of all tensors, or at least of
/// these.
BlockShares block_shares(const BlockSpec& spec,
                         std::span<const ShardSpec> shards,
                         const PackLayout& grads,
                         const PackLayout& weights,
                         DType weight_dtype);

}  // namespace strata::parallel
