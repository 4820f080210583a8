#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/block.h"
#include "optim/block_layout.h"
#include "optim/optimizer.h"

namespace strata::optim {

/// Where the sums of a block's parameters lie in StepScalars::stats: by phase, parameter, shard,
/// statistic. A slot is written by the owner of its shard and zero on other ranks, so adding ranks
/// is exact and shards are folded in one order everywhere.
class StatSlots {
 public:
  /// Reuses its memory from block to block.
  void arrange(const Optimizer& method,
               const BlockSpec& spec,
               const BlockLayout& layout,
               std::int64_t step);
  const Needs& needs(int param) const { return params_[static_cast<std::size_t>(param)].needs; }
  /// Slots of phases [0, phases).
  std::size_t size(int phases) const { return per_phase_ * static_cast<std::size_t>(phases); }
  std::span<double> slot(std::vector<double>& stats, int phase, int param, int shard) const;
  /// Sums of phases [0, phases) of one parameter over its shards; valid until the next call.
  std::span<const double> totals(std::vector<double>& stats, int param, int phases);
  /// Zeroes what other ranks own in phases [0, phases), so that the next exchange adds every slot
  /// once.
  void forget_others(std::vector<double>& stats, std::span<const OwnedRange> ours, int phases);

 private:
  struct Param {
    Needs needs;
    int shards = 0;
    std::size_t first = 0;  // of phase 0
  };
  std::vector<Param> params_;
  std::size_t per_phase_ = 0;
  std::vector<double> totals_, kept_;
};

}  // namespace strata::optim
