#pragma once
#include <cstdint>

#include "core/graph.h"
#include "core/ops/rope.h"

namespace strata::cpu {

/// Cosines and sines of every position: (places, 2, D / 2) f32.
struct RopeTable {
  const float* values;
  std::int64_t D;
  RopeStyle style;
};

/// y = x rotated by the table row of each position. x, y: (B, T, heads * D); positions: (B, T) i32.
void rope_forward(const Tensor& y,
                  const Tensor& x,
                  const Tensor& positions,
                  const RopeTable& table);
/// dx = dy rotated back.
void rope_backward(const GradSink& dx,
                   const Tensor& dy,
                   const Tensor& positions,
                   const RopeTable& table);

}  // namespace strata::cpu
