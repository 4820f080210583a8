#include "optim/optimizer.h"

#include <algorithm>
#include <cstddef>

namespace strata::optim {

std::vector<std::vector<Turn>> no_turns(std::span<const BlockSpec> blocks) {
  std::vector<std::vector<Turn>> all;
  for (const BlockSpec& block : blocks) {
    all.emplace_back(block.params.size(), Turn::always);
  }
  return all;
}

std::vector<std::vector<Turn>> Optimizer::turns(std::span<const BlockSpec> blocks,
                                                std::int64_t,
                                                std::uint64_t) const {
  return no_turns(blocks);
}

void Optimizer::forget(const ParamInfo& param, StateViews& state, Stream& stream) const {
  for (const StateField& field : state_layout(param)) {
    const Tensor& values = state[field.name];
    std::fill(values.bytes(), values.bytes() + values.size_bytes(), std::byte{0});
  }
  init(param, state, stream);
}

}  // namespace strata::optim
