#pragma once
#include <memory>
#include <vector>

#include "core/block.h"
#include "core/pack.h"
#include "models/config.h"

namespace strata::models {

/// The blocks of a model in order: embedding, L decoder blocks, final norm and loss. Parameter
/// names are those of the family's Hugging Face checkpoints; ids count in declaration order.
std::vector<std::unique_ptr<Block>> build_blocks(const ModelConfig& config);

/// Own parameters' values at step 0 from (seed, tensor id, element): element i of any range is the
/// same whatever range is asked. to: elements [begin, begin + numel) f32. Compute thread only.
void init_param(const ParamSpec& spec, std::uint64_t seed, std::int64_t begin, std::span<float> to);

}  // namespace strata::models
