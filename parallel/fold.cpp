#include "parallel/fold.h"

#include <algorithm>
#include <array>

#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/for_each.h"

namespace strata::parallel {
namespace {

constexpr std::int64_t kTile = 512;  // floats; the whole stack stays in the first cache
constexpr std::size_t kDepth = 16;   // of a tree over 2^15 sums
using Tile = std::array<float, kTile>;

/// One tile. A value on the stack is a contribution where it lies, or a sum in a tile of ours.
void fold_tile(float* out,
               std::span<const float* const> contributions,
               const SumOrder& order,
               std::int64_t at,
               std::int64_t n) {
  std::array<Tile, kDepth> sums;
  std::array<const float*, kDepth> stack{};
  std::size_t top = 0;
  for (const int step : order.steps) {
    if (step != SumOrder::kAdd) {
      stack[top++] = contributions[static_cast<std::size_t>(step)] + at;
      continue;
    }
    --top;
    const float* const a = stack[top - 1];
    const float* const b = stack[top];
    float* const sum = sums[top - 1].data();
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      sum[i] = a[i] + b[i];
    }
    stack[top - 1] = sum;
  }
  if (stack[0] != out + at) {
    std::copy(stack[0], stack[0] + n, out + at);
  }
}

/// Two contributions, the most common case: straight into place.
void fold_pair(float* out, const float* a, const float* b, std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = a[i] + b[i];
  }
}

}  // namespace

void fold(float* out,
          float* copy,
          std::span<const float* const> contributions,
          const SumOrder& order,
          std::int64_t numel) {
  STRATA_ASSERT(static_cast<int>(contributions.size()) == order.contributions());
  STRATA_ASSERT(order.depth() <= static_cast<int>(kDepth));
  const bool pair = order.steps.size() == 3;
  parallel_for(numel, kChunk, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd([&] {
      for (std::int64_t at = begin; at < end; at += kTile) {
        const std::int64_t n = std::min(kTile, end - at);
        if (pair) {
          fold_pair(out + at, contributions[0] + at, contributions[1] + at, n);
        } else {
          fold_tile(out, contributions, order, at, n);
        }
        if (copy != nullptr) {
          std::copy(out + at, out + at + n, copy + at);
        }
      }
    });
  });
}

}  // namespace strata::parallel
