#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/philox.h"
#include "core/runtime.h"
#include "core/tensor.h"

namespace strata {

/// gram = rows * rows^T: (m, n) f32 to (m, m) f64, with products and sums in float64. The bits
/// depend on the shape alone. Compute stream.
void gram(const Tensor& gram, const Tensor& rows, Stream& stream);

/// condition: one pass; rows of full rank become independent for the next product, nearly
/// orthonormal where they were not too close to each other. orthonormal: passes until every product
/// of two rows is within kOrthonormal of 0 or 1.
enum class Passes : std::uint8_t { condition, orthonormal };
inline constexpr double kOrthonormal = 1e-6;

/// Bytes that orthonormalise() needs for m rows of length n, with the present thread_count().
std::int64_t orthonormalise_workspace_bytes(std::int64_t m, std::int64_t n);

/// rows (m, n) f32, m <= n, become an orthonormal basis of their span by Cholesky-QR: the Gram
/// matrix and its factor in float64, the product with the inverse factor in f32, which the next
/// pass repairs. A row that the rows before it determine (to 1e-5 of its length) is replaced by one
/// drawn from `key`, so that the basis is complete whatever came. Compute stream. Throws numerics
/// when a row is not finite.
/// Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015.
void orthonormalise(const Tensor& rows,
                    Passes passes,
                    const RandomKey& key,
                    std::span<std::byte> workspace,
                    Stream& stream);

}  // namespace strata
