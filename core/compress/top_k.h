#pragma once
#include <cstdint>
#include <span>

#include "core/runtime.h"

namespace strata {

/// The entries of largest magnitude in each block of a flat array; the last block may be short.
/// Blocks are counted from the array's start, so an array may be cut at multiples of `block`.
struct TopK {
  static constexpr std::int64_t kLargestBlock = 1 << 15;  // indices are 16 bits

  std::int64_t block = 4096;
  double density = 0.01;

  /// Of the n entries of a block: ceil(density * n) in float64.
  std::int64_t kept(std::int64_t n) const;
  /// Of all blocks of an array.
  std::int64_t total(std::int64_t numel) const;
  /// Throws config, with the nearest legal value, unless block is in [1, kLargestBlock] and density
  /// in (0, 1].
  void validate() const;
};

/// Writes the places of the k entries of largest |value| among n, ascending; of equals those that
/// come first. No NaN. n <= TopK::kLargestBlock.
void top_k_of_block(std::int16_t* indices, const float* values, std::int64_t n, std::int64_t k);

/// indices (top.total(values.size())): for each block its kept() places, relative to its start and
/// ascending, block after block. Any lane; takes no memory.
void top_k(std::span<std::int16_t> indices,
           std::span<const float> values,
           const TopK& top,
           Stream& stream);

}  // namespace strata
