#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"

namespace strata::launch {

/// Elements [begin, begin + values.size()) of a tensor's weights as f32, whatever format the run
/// that saved them kept them in. Throws format when the tensor is not stored.
void read_stored_weights(const checkpoint::Reader& reader,
                         const std::string& tensor,
                         std::int64_t begin,
                         std::span<float> values);

}  // namespace strata::launch
