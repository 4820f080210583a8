#pragma once
#include <cstdint>
#include <span>

#include "core/graph.h"

namespace strata::cpu {

// x, y, dy: (rows, C); weight, bias: (C); mean, rstd: (rows) f32. bias may be absent.
void layer_norm_forward(const Tensor& y,
                        const Tensor& mean,
                        const Tensor& rstd,
                        const Tensor& x,
                        const Tensor& weight,
                        const Tensor& bias,
                        float eps);
void layer_norm_backward(const GradSink& dx,
                         const GradSink& dweight,
                         const GradSink& dbias,
                         const Tensor& dy,
                         const Tensor& x,
                         const Tensor& weight,
                         const Tensor& mean,
                         const Tensor& rstd,
                         std::span<std::byte> scratch);

void rms_norm_forward(
    const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& weight, float eps);
void rms_norm_backward(const GradSink& dx,
                       const GradSink& dweight,
                       const Tensor& dy,
                       const Tensor& x,
                       const Tensor& weight,
                       const Tensor& rstd,
                       std::span<std::byte> scratch);

/// Scratch of either backward.
std::int64_t norm_scratch_bytes(std::int64_t rows, std::int64_t C);

}  // namespace strata::cpu
