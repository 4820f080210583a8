#pragma once
#include "core/graph.h"

namespace strata {

/// Rows of logits that exist at once. A numeric setting: it fixes the order in which the weight
/// gradient adds.
inline constexpr std::int64_t kLossChunkRows = 256;

/// Final projection and cross-entropy in one node. x: (B, T, C); weight: (V, C); targets come with
/// the micro-batch, kMasked positions count nothing. Training: for each chunk of kLossChunkRows
/// token rows the logits are made once, turned in place into loss and d logits (times
/// run.loss_scale), then dx rows are written and the weight gradient accumulates. Evaluation: the
/// loss only. Adds nats to run.loss_sum.
void linear_cross_entropy(Graph& graph, Value x, Value weight);

/// Logits of every position, (B, T, V) f32, for generation. Evaluation only.
Value logits(Graph& graph, Value x, Value weight);

}  // namespace strata
