#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/block.h"
#include "optim/block_layout.h"
#include "optim/optimizer.h"

namespace strata::optim {

/// Where the sums of a block's parameters lie in StepScalars::stats: by phase, parameter, piece,
/// statistic. A slot is written by the owner of its piece and zero on other ranks, so adding ranks
/// is exact; pieces are those of cut_unit, folded in order, so sums do not depend on the shards.
class StatSlots {
 public:
  /// Reuses its memory from block to block.
  void arrange(const Optimizer& method,
               const BlockSpec& spec,
               const BlockLayout& layout,
               std::int64_t step);
  const Needs& needs(int param) const { return params_[static_cast<std::size_t>(param)].needs; }
  /// Calls body(piece, begin, end) for the pieces of a range, in order.
  template <class Body>
  void for_each_piece(const OwnedRange& range, const Body& body) const {
    const std::int64_t piece = params_[static_cast<std::size_t>(range.param)].piece;
    for (std::int64_t begin = range.begin; begin < range.end; begin += piece) {
      body(begin / piece, begin, std::min(range.end, begin + piece));
    }
  }
  /// Slots of phases [0, phases).
  std::size_t size(int phases) const { return per_phase_ * static_cast<std::size_t>(phases); }
  std::span<double> slot(std::vector<double>& stats,
                         int phase,
                         int param,
                         std::int64_t piece) const;
  /// Sums of phases [0, phases) of one parameter over its pieces; valid until the next call.
  std::span<const double> totals(std::vector<double>& stats, int param, int phases);
  /// Zeroes what other ranks own in phases [0, phases), so that the next exchange adds every slot
  /// once.
  void forget_others(std::vector<double>& stats, std::span<const OwnedRange> ours, int phases);

 private:
  struct Param {
    Needs needs;
    std::int64_t piece = 1;  // elements
    std::int64_t pieces = 0;
    std::size_t first = 0;  // of phase 0
  };
  std::vector<Param> params_;
  std::size_t per_phase_ = 0;
  std::vector<double> totals_, kept_;
};

}  // namespace strata::optim
