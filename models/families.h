#pragma once
#include <memory>
#include <vector>

#include "core/block.h"
#include "models/config.h"

namespace strata::models {

using Blocks = std::vector<std::unique_ptr<Block>>;
Blocks gpt2_blocks(const ModelConfig& config);
Blocks llama_blocks(const ModelConfig& config);

}  // namespace strata::models
