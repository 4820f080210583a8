#pragma once
#include "core/graph.h"

namespace strata {

/// Rows of logits that exist at once, and columns of one product with them. Numeric settings: they
/// fix the order in which the gradients of the weight and of x add, and the sums of the softmax.
inline constexpr std::int64_t kLossRows = 1024;
inline constexpr std::int64_t kLossColumns = 2048;

/// Final projection and cross-entropy in one node. x: (B, T, C); weight: (V, C); targets come with
/// the micro-batch, kMasked positions count nothing. Training: for each kLossRows token rows the
/// logits are made once, then turned kLossColumns at a time into d logits (times run.loss_scale)
/// and their transposed copy, of which dx and the weight gradient are products. Evaluation: the
/// loss only, with one chunk of logits. Adds nats to run.loss_sum.
void linear_cross_entropy(Graph& graph, Value x, Value weight);

/// Logits of every position, (B, T, V) f32, for generation. Evaluation only.
Value logits(Graph& graph, Value x, Value weight);

}  // namespace strata
