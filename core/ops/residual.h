#pragma once
#include "core/graph.h"

namespace strata {

/// y = x + dropout(branch). Same shapes. rate 0, or evaluation: a plain sum. The mask is a pure
/// function of (seed, step, block, site, global sample, position, channel), so recompute needs no
/// stored mask; kept values are scaled by 1 / (1 - rate).
Value residual_dropout(Graph& graph, Value x, Value branch, float rate);

/// y = dropout(x), the same mask rule (embeddings).
Value dropout(Graph& graph, Value x, float rate);

}  // namespace strata
