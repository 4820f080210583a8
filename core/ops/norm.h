#pragma once
#include "core/graph.h"

namespace strata {

/// y = (x - mean(x)) / sqrt(var(x) + eps) * weight (+ bias), over the last axis, statistics in f32.
/// x, y: (..., C); weight, bias: (C), bias may be absent. Keeps x, mean and 1/std, not y.
/// Ba et al., Layer Normalization, 2016.
Value layer_norm(Graph& graph, Value x, Value weight, Value bias, float eps);

/// y = x / sqrt(mean(x^2) + eps) * weight, over the last axis, statistics in f32.
/// Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
Value rms_norm(Graph& graph, Value x, Value weight, float eps);

/// A residual connection and the norm behind it.
struct ResidualNorm {
  Value sum;     // x + dropout(branch), as residual_dropout
  Value normed;  // the norm of the stored sum
};
/// The bits of residual_dropout and a norm one after the other; without dropout in one pass forward
/// and one backward.
ResidualNorm residual_layer_norm(
    Graph& graph, Value x, Value branch, float rate, Value weight, Value bias, float eps);
ResidualNorm residual_rms_norm(
    Graph& graph, Value x, Value branch, float rate, Value weight, float eps);

}  // namespace strata
