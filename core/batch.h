#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace strata {

/// Tokens of one micro-batch and where they stand in the step.
struct MicroBatch {
  Tensor tokens;     // (B, T) i32
  Tensor targets;    // (B, T) i32; kMasked where the loss ignores the position
  Tensor positions;  // (B, T) i32, restarting at 0 in each document
  Tensor documents;  // (B, T) i32, index in the row where the position's document starts
  std::int64_t first_sample = 0;  // global index of row 0; keys activation randomness
};
inline constexpr std::int32_t kMasked = -1;

}  // namespace strata
