#pragma once
#include "core/graph.h"

namespace strata::cpu {

void gelu_tanh_forward(const Tensor& y, const Tensor& x);
void gelu_tanh_backward(const GradSink& dx, const Tensor& dy, const Tensor& x);

/// y = silu(gate) * up.
void swiglu_forward(const Tensor& y, const Tensor& gate, const Tensor& up);
void swiglu_backward(const GradSink& dgate,
                     const GradSink& dup,
                     const Tensor& dy,
                     const Tensor& gate,
                     const Tensor& up);

}  // namespace strata::cpu
