#include "core/compress/top_k.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "core/compress/for_each_block.h"
#include "core/cpu/simd.h"
#include "core/cpu/wide_lane.h"
#include "core/error.h"

namespace strata {
namespace {

/// The bits of |x|, which order as |x| does.
std::int32_t magnitude(float x) {
  return std::bit_cast<std::int32_t>(x) & 0x7fffffff;
}

std::int32_t magnitude(std::int32_t bits) {
  return bits;
}

template <class T>
std::int64_t count_from(const T* values, std::int64_t n, std::int32_t least) {
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
template <class T>
Threshold find_threshold(const T* values, std::int64_t n, std::int64_t k) {
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

// Strides over a block, each with its largest magnitude: the k-th largest of those maxima is no
// larger than the k-th largest of all.
constexpr std::int64_t kStrides = 256, kMostCandidates = 1024;

bool has_strides(std::int64_t n, std::int64_t k) {
  return n >= 8 * kStrides && k <= kStrides / 2;
}

/// A bound that k magnitudes reach: the k-th largest of the strides' maxima.
std::int32_t bound_of_strides(const float* values, std::int64_t n, std::int64_t k) {
  alignas(64) std::int32_t most[kStrides] = {};
  const std::int64_t whole = n - n % kStrides;
  for (std::int64_t row = 0; row < whole; row += kStrides) {
#pragma omp simd
    for (std::int64_t j = 0; j < kStrides; ++j) {
      const std::int32_t size = magnitude(values[row + j]);
      most[j] = size > most[j] ? size : most[j];
    }
  }
  for (std::int64_t j = 0; whole + j < n; ++j) {
    most[j] = std::max(most[j], magnitude(values[whole + j]));
  }
  return find_threshold(most, kStrides, k).bound;
}

/// Places of magnitudes from `least` on; -1 where they are too many.
template <class F>
std::int64_t find_candidates(const float* values,
                             std::int64_t n,
                             std::int32_t least,
                             std::int32_t* places) {
  using Int = LaneInt<F>;
  constexpr std::int64_t kStep = cpu::kLanesOf<F>;
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < n; i += kStep) {
    std::uint32_t hits;
    if (n - i >= kStep) {
      F value;
      cpu::read(value, values + i);
      hits = cpu::lanes_of((bits_of(value) & Int(0x7fffffff)) >= Int(least));
    } else {
      hits = 0;
      for (std::int64_t j = i; j < n; ++j) {
        hits |= magnitude(values[j]) >= least ? 1u << (j - i) : 0u;
      }
    }
    for (; hits != 0; hits &= hits - 1) {
      if (found == kMostCandidates) {
        return -1;
      }
      places[found++] = static_cast<std::int32_t>(i) + std::countr_zero(hits);
    }
  }
  return found;
}

/// Whether there were few enough candidates to choose from.
template <class F>
bool choose_by_strides(std::int16_t* indices, const float* values, std::int64_t n, std::int64_t k) {
  std::int32_t places[kMostCandidates], sizes[kMostCandidates];
  const std::int64_t found = find_candidates<F>(values, n, bound_of_strides(values, n, k), places);
  if (found < 0) {
    return false;
  }
  std::transform(
      places, places + found, sizes, [&](std::int32_t i) { return magnitude(values[i]); });
  Threshold left = find_threshold(sizes, found, k);
  for (std::int64_t i = 0; i < found; ++i) {
    const bool equal = sizes[i] == left.bound && left.equals > 0;
    left.equals -= equal ? 1 : 0;
    if (sizes[i] > left.bound || equal) {
      *indices++ = static_cast<std::int16_t>(places[i]);
    }
  }
  return true;
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
  bool done = false;
  if (k > 0 && has_strides(n, k)) {
    cpu::with_lanes([&]<class F>(std::type_identity<F>) {
      done = choose_by_strides<F>(indices, values, n, k);
    });
  }
  if (done) {
    return;
  }
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
