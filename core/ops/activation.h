#pragma once
#include "core/graph.h"

namespace strata {

/// Gaussian error linear unit, tanh form: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Keeps x.
/// Hendrycks and Gimpel, 2016.
Value gelu_tanh(Graph& graph, Value x);

/// silu(gate) * up, silu(a) = a / (1 + e^-a). Same shapes. Keeps both operands. Shazeer, GLU
/// variants, 2020.
Value swiglu(Graph& graph, Value gate, Value up);

}  // namespace strata
