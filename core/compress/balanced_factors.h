#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/runtime.h"
#include "core/tensor.h"

namespace strata {

/// Bytes that balance_factors() needs for factors (a, r) and (r, b).
std::int64_t balance_factors_workspace_bytes(std::int64_t a, std::int64_t b, std::int64_t r);

/// left <- U S^1/2 and right <- S^1/2 V^T, where left * right = U S V^T, so that the product stays
/// and left^T left = right right^T = S, descending. left: (a, r) f32; right: (r, b) f32; the
/// product is never formed. All sums are in float64: of singular values below 1e-7 of a factor's
/// largest, which its entries hardly hold, the product stays but may not be shared evenly.
/// Directions that the product lacks become nearly zero in both. The bits do not depend on the
/// threads. Compute stream. Throws numerics when a value is not finite.
/// From the eigenvectors of left^T left and right right^T, which stand for triangles of QR, and an
/// (r, r) problem. Weight refactorisation, arXiv 2505.22922, 2025.
void balance_factors(const Tensor& left,
                     const Tensor& right,
                     std::span<std::byte> workspace,
                     Stream& stream);

}  // namespace strata
