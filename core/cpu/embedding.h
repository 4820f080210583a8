#pragma once
#include "core/graph.h"

namespace strata::cpu {

/// y (B, T, C) = table[tokens] (+ positions_table[positions]); indices (B, T) i32, in range.
void embedding_forward(const Tensor& y,
                       const Tensor& table,
                       const Tensor& positions_table,
                       const Tensor& tokens,
                       const Tensor& positions);

/// y (B, T, C) = x + table[indices]; indices (B, T) i32, in range.
void add_rows(const Tensor& y, const Tensor& x, const Tensor& table, const Tensor& indices);

/// sink (rows, C) f32: row indices[i] gains row i of dy, in order of i.
void embedding_backward(const GradSink& sink, const Tensor& dy, const Tensor& indices);

}  // namespace strata::cpu
