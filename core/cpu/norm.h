#pragma once
#include <cstdint>
#include <span>

#include "core/graph.h"

namespace strata::cpu {

// x, branch, sum, y, dy: (rows, C); weight, bias: (C); mean, rstd: (rows) f32.

/// What is normed: x, or sum = x + branch, which is written on the way.
struct NormInput {
  Tensor x;
  Tensor branch, sum;  // both or neither
};
/// Absent bias or mean: none; without a mean the norm is that of RMS.
struct NormOutput {
  Tensor y, mean, rstd;
};
void norm_forward(const NormOutput& out,
                  const NormInput& in,
                  const Tensor& weight,
                  const Tensor& bias,
                  float eps);

/// Gradients: dx and dbranch are both what comes through the norm plus dsum, if that is there.
struct NormGradients {
  GradSink dx, dbranch, dweight, dbias;
};
/// What the forward left. x: what was normed.
struct NormSaved {
  Tensor x, weight, mean, rstd;
};
void norm_backward(const NormGradients& to,
                   const Tensor& dy,
                   const Tensor& dsum,
                   const NormSaved& saved,
                   std::span<std::byte> scratch);
/// y as the forward wrote it, from what the forward left.
void norm_redo(const Tensor& y, const NormSaved& saved, const Tensor& bias);

/// Scratch of the backward.
std::int64_t norm_scratch_bytes(std::int64_t rows, std::int64_t C);

}  // namespace strata::cpu
