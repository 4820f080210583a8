#include "core/compress/top_k.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "core/compress/for_each_block.h"
#include "core/cpu/simd.h"
#include "core/error.h"

namespace strata {
namespace {

/// The bits of |x|, which order as |x| does.
std::int32_t magnitude(float x) {
  return std::bit_cast<std::int32_t>(x) & 0x7fffffff;
}

std::int64_t count_from(const float* values, std::int64_t n, std::int32_t least) {
  std::int32_t count = 0;
#pragma omp simd reduction(+ : count)
  for (std::int64_t i = 0; i < n; ++i) {
    count += magnitude(values[i]) >= least ? 1 : 0;
  }
  return count;
}

/// What is kept: magnitudes above `bound`, and the first `equals` of those that are equal to it.
struct Threshold {
  std::int32_t bound = 0;
  std::int64_t equals = 0;
};

/// Bit by bit the largest bound that k magnitudes reach, until exactly k do: each bit is one pass
/// over a block that lies in the first-level cache.
Threshold find_threshold(const float* values, std::int64_t n, std::int64_t k) {
  std::int32_t bound = 0;
  std::int64_t reached = n;
  for (std::int32_t bit = 1 << 30; bit > 0 && reached > k; bit >>= 1) {
    const std::int64_t count = count_from(values, n, bound | bit);
    if (count >= k) {
      bound |= bit;
      reached = count;
    }
  }
  return {.bound = bound, .equals = reached == k ? k : k - count_from(values, n, bound + 1)};
}

bool any_from(const float* values, std::int64_t n, std::int32_t least) {
  std::int32_t any = 0;
#pragma omp simd reduction(| : any)
  for (std::int64_t i = 0; i < n; ++i) {
    any |= magnitude(values[i]) >= least ? 1 : 0;
  }
  return any != 0;
}

}  // namespace

std::int64_t TopK::kept(std::int64_t n) const {
  return std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::ceil(density * static_cast<double>(n))),
      std::min<std::int64_t>(n, 1),
      n);
}

std::int64_t TopK::total(std::int64_t numel) const {
  return numel / block * kept(block) + kept(numel % block);
}

void TopK::validate() const {
  if (block < 1 || block > kLargestBlock) {
    throw Error(Errc::config,
                "top-k: a block must have 1 to " + std::to_string(kLargestBlock) +
                    " elements, got " + std::to_string(block) + "; use " +
                    std::to_string(std::clamp<std::int64_t>(block, 1, kLargestBlock)));
  }
  if (!(density > 0.0 && density <= 1.0)) {
    throw Error(Errc::config,
                "top-k: the density must be above 0 and at most 1, got " + std::to_string(density) +
                    "; use " + (density > 1.0 ? "1" : "0.01"));
  }
}

void top_k_of_block(std::int16_t* indices, const float* values, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kGroup = 16;
  STRATA_ASSERT(0 <= k && k <= n && n <= TopK::kLargestBlock);
  cpu::simd([&] {
    Threshold left = find_threshold(values, n, k);
    for (std::int64_t group = 0; group < n; group += kGroup) {
      const std::int64_t end = std::min(n, group + kGroup);
      if (end - group == kGroup && !any_from(values + group, kGroup, left.bound)) {
        continue;
      }
      for (std::int64_t i = group; i < end; ++i) {
        const std::int32_t size = magnitude(values[i]);
        const bool equal = size == left.bound && left.equals > 0;
        left.equals -= equal ? 1 : 0;
        if (size > left.bound || equal) {
          *indices++ = static_cast<std::int16_t>(i);
        }
      }
    }
  });
}

void top_k(std::span<std::int16_t> indices,
           std::span<const float> values,
           const TopK& top,
           Stream& stream) {
  const auto n = static_cast<std::int64_t>(values.size());
  STRATA_ASSERT(static_cast<std::int64_t>(indices.size()) == top.total(n));
  const std::int64_t each = top.kept(top.block), blocks = (n + top.block - 1) / top.block;
  for_each_block(stream, blocks, top.block, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = b * top.block, size = std::min(top.block, n - first);
      top_k_of_block(indices.data() + b * each, values.data() + first, size, top.kept(size));
    }
  });
}

}  // namespace strata
