#pragma once
#include "core/graph.h"

namespace strata {

/// How a weight lies in memory: (out, in) as torch.nn.Linear, (in, out) as GPT-2's Conv1D.
enum class WeightLayout : std::uint8_t { out_in, in_out };

/// y = x W^T (or x W for in_out) (+ bias). x: (..., in); y: (..., out); bias: (out) or absent.
/// The weight gradient is one product with a transposed copy of an activation; it accumulates in
/// f32 in the sink with beta = 1. The bias gradient sums rows in fixed order.
Value linear(Graph& graph, Value x, Value weight, Value bias, WeightLayout layout);

}  // namespace strata
