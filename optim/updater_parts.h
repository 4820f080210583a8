#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "core/error.h"
#include "optim/block_layout.h"
#include "optim/stat_slots.h"
#include "optim/updater.h"

namespace strata::optim {

/// The packs that one update reads and writes.
struct UpdatePacks {
  std::span<std::byte> weights, state, turn_state, grads, workspace;
  bool speculative = false;  // weights and states are the next generation
};

struct OptimizerUpdater::Impl {
  std::shared_ptr<Optimizer> method;
  std::vector<BlockSpec> specs;
  WeightFormat format = WeightFormat::f32;
  DType working = DType::f32;
  std::vector<ShardSpec> shards;
  int rank = 0;
  std::uint64_t seed = 0;
  std::int64_t factor_steps = 0;
  std::vector<BlockLayout> blocks;
  // Kept between instructions for their memory, not for what they hold.
  StateViews views;
  StatSlots slots;

  const BlockLayout& layout(int block) const {
    STRATA_ASSERT(block >= 0 && block < static_cast<int>(blocks.size()));
    return blocks[static_cast<std::size_t>(block)];
  }
  bool is_factor(int block, int param) const {
    return std::ranges::any_of(spec(block).factors, [&](const FactorPair& pair) {
      return pair.left == param || pair.right == param;
    });
  }
  const BlockSpec& spec(int block) const { return specs[static_cast<std::size_t>(block)]; }
  const ParamInfo& param(int block, const OwnedRange& range) const {
    return spec(block).params[static_cast<std::size_t>(range.param)].info;
  }
  Slice slice(int block, const OwnedRange& range, const UpdatePacks& packs) const;
  void view_state(int block,
                  const OwnedRange& range,
                  const UpdatePacks& packs,
                  StateViews& to) const;
  /// Of elements [begin, end) of the range, cut where fields may be.
  void view_piece(int block,
                  const OwnedRange& range,
                  std::int64_t begin,
                  std::int64_t end,
                  const UpdatePacks& packs,
                  StateViews& to) const;
  StepInfo step_info(int block,
                     const OwnedRange& range,
                     const UpdatePacks& packs,
                     const StepScalars& scalars) const;
  void init(int block, const UpdatePacks& packs, bool of_turn) const;
  Workspace workspace_for(const ParamInfo& param,
                          const Needs& needs,
                          const UpdatePacks& packs) const;
  UpdatePacks open(const Instruction& instruction, const Held& packs) const;
  Needs largest_needs() const;
};

}  // namespace strata::optim
