#pragma once
#include "core/graph.h"

namespace strata {

/// Causal scaled-dot-product attention within documents: position t sees s with
/// documents[b,t] <= s <= t. q: (B, T, H * D); k, v: (B, T, K * D), query head h reads key head h /
/// (H / K); y: (B, T, H * D). Scale 1/sqrt(D). Keeps q, k, v, y and the log-sum-exp (B, H, T) f32;
/// no (T, T) matrix exists in memory beyond one tile. Deterministic backward: each thread owns
/// whole (sequence, key head) pairs. Dao, FlashAttention-2, 2023; Ainslie et al., GQA, 2023.
Value attention(Graph& graph, Value q, Value k, Value v, std::int64_t H, std::int64_t K);

/// Splits the last axis: x (B, T, sum of widths) seen as tensors of the widths given (GPT-2's fused
/// qkv). Views: nothing is copied, and only ops that say so take them.
std::vector<Value> split(Graph& graph, Value x, std::span<const std::int64_t> widths);

}  // namespace strata
