#pragma once
#include "core/graph.h"

namespace strata {

/// Which elements of a head form a rotated pair: half_split (i, i + D/2) as Hugging Face,
/// interleaved (2i, 2i + 1) as the original Llama and llama2.c.
enum class RopeStyle : std::uint8_t { half_split, interleaved };

/// Rotates each pair of x by positions[b,t] * theta^(-2i/D). x, y: (B, T, heads * D). Angles in
/// f64, tables made once per graph. Su et al., RoFormer, 2021.
Value rope(Graph& graph, Value x, std::int64_t D, double theta, RopeStyle style);

}  // namespace strata
