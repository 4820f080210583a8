#pragma once
#include "core/graph.h"

namespace strata {

/// y[b,t] = table[tokens[b,t]] (+ positions_table[positions[b,t]]).
/// table: (V, C); positions_table: (max T, C) or absent; y: (B, T, C). The gradient adds rows in
/// token order, so it does not depend on threads. Throws data when a token is outside [0, V).
Value embedding(Graph& graph, Value table, Value positions_table);

/// y[b,t] = x[b,t] + positions_table[positions[b,t]], where something stands between the lookup
/// and the positions. x, y: (B, T, C); positions_table: (max T, C). Gradients as of embedding().
Value add_positions(Graph& graph, Value x, Value positions_table);

}  // namespace strata
