#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/runtime.h"
#include "core/tensor.h"

namespace strata {

/// Bytes that symmetric_eigen() needs for an n x n matrix: a copy of it and a little more.
std::int64_t symmetric_eigen_workspace_bytes(std::int64_t n);

/// All eigenvalues, in descending order, and orthonormal eigenvectors of a symmetric matrix.
/// values: (n) f64; vectors: (n, n) f64, row i belongs to values[i] (its sign is arbitrary but
/// fixed by the matrix); matrix: (n, n) f64, only its lower triangle is read. `vectors` may be
/// `matrix`. Errors are a few n * 2^-53 of the largest |eigenvalue|. The bits depend on the matrix
/// alone, not on the threads. Compute stream. Throws numerics when a value is not finite.
/// Householder reflections to a tridiagonal matrix, then implicit QL with Wilkinson's shift, as in
/// Wilkinson and Reinsch, Handbook for Automatic Computation II, 1971.
void symmetric_eigen(const Tensor& values,
                     const Tensor& vectors,
                     const Tensor& matrix,
                     std::span<std::byte> workspace,
                     Stream& stream);

}  // namespace strata
