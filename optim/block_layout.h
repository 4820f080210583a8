#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/block.h"
#include "optim/optimizer.h"
#include "optim/updater.h"

namespace strata::optim {

/// A range of a parameter that this rank updates, and where its pieces lie in the packs.
struct OwnedRange {
  int param = 0;
  std::int64_t begin = 0, end = 0;
  std::int64_t weight_offset = 0, grad_offset = 0;  // bytes in the weights and grads packs
  struct Field {
    std::int64_t offset = 0, numel = 0;  // bytes in the state or turn_state pack
  };
  std::vector<Field> weight;    // in the order of weight_fields; empty while it is frozen
  std::vector<Field> fields;    // in the order of the parameter's StateLayout; empty without state
  bool weight_in_turn = false;  // whether `weight` lies in turn_state
  bool fields_in_turn = false;
  std::int64_t first_chunk = 0;  // in the block's norm partials
  std::int64_t numel() const { return end - begin; }
};

struct BlockLayout {
  BlockState state;
  std::vector<StateLayout> fields;   // by own parameter
  std::vector<Turn> turns;           // the same
  std::vector<OwnedRange> ranges;    // by parameter, then begin: global order
  std::vector<std::int64_t> pieces;  // by own parameter: cut_unit, elements of a piece of sums
  std::int64_t chunks = 0;           // norm partials of the block, all ranks
};

/// `turns`: by own parameter. `shards`: of all tensors, sorted by (tensor, begin); empty: all ours.
/// Throws internal.
BlockLayout lay_out(const Optimizer& method,
                    const BlockSpec& spec,
                    std::span<const ShardSpec> shards,
                    int rank,
                    int block,
                    WeightFormat format,
                    DType working,
                    std::span<const Turn> turns);

}  // namespace strata::optim
