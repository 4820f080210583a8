#pragma once
#include <cstdint>
#include <span>

#include "core/graph.h"

namespace strata::cpu {

/// Rows that one partial sum of a parameter gradient covers. A numeric setting: it fixes the order
/// of addition, whatever the number of threads.
inline constexpr std::int64_t kRowChunk = 64;
inline std::int64_t row_chunks(std::int64_t rows) {
  return (rows + kRowChunk - 1) / kRowChunk;
}

/// sink (n) f32 = partials (chunks, stride), first n of each, folded in chunk order.
void fold_partials(const GradSink& sink,
                   const float* partials,
                   std::int64_t chunks,
                   std::int64_t stride,
                   std::int64_t n);

/// Gradient of a bias: the rows of dy (..., C) summed into sink (C) f32.
std::int64_t sum_rows_scratch_bytes(std::int64_t rows, std::int64_t C);
void sum_rows(const GradSink& sink, const Tensor& dy, std::span<std::byte> scratch);

/// sink = dy, elementwise: the gradient of an operand that passes unchanged.
void pass_gradient(const GradSink& sink, const Tensor& dy);

}  // namespace strata::cpu
