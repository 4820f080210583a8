#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

#include "core/cpu/attention.h"
#include "core/cpu/lanes.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/cpu/tile.h"
#include "core/cpu/tile_avx512.h"
#include "core/parallel_for.h"

namespace strata::cpu {

// What forward and backward of attention share. Scores are held turned, (keys, queries): a softmax
// then runs down its lanes, and keys and values are read as they stand. Operands of products are
// words (core/cpu/tile.h) in copies of their own, "turned" (channels, rows) or "paired": pairs of
// neighbouring rows, for products along the rows. In f32 a paired copy is a plain one.

inline constexpr std::int64_t kPanel = kAttentionPanel;
inline constexpr std::int64_t kKeys = kAttentionKeys;
static_assert(kPanel % kTileRows == 0 && kPanel % kTileColumns == 0 && kKeys % kTileRows == 0);
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

template <class Word>
inline constexpr std::int64_t kStep = std::is_same_v<Word, float> ? 1 : 2;
/// What a word is made of.
template <class Word>
using Element = std::conditional_t<std::is_same_v<Word, float>, float, bf16>;

/// Extents of the copies: channels padded to whole vectors, sequences to whole register blocks.
struct Padded {
  std::int64_t D, T;
  explicit Padded(const AttentionDims& dims)
      : D(round_up(dims.D, kLanes)), T(round_up(dims.T, kTileRows)) {}
  std::int64_t sequence() const { return T * D; }
  std::int64_t panel() const { return kPanel * D; }
};

/// One head of one sequence inside a (B, T, heads * D) tensor or columns of a wider one.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t stride, D;
  T* row(std::int64_t t) const { return data + t * stride; }
};

template <class T>
HeadRows<T> head_rows(const Tensor& x, std::int64_t D, std::int64_t b, std::int64_t head) {
  const Shape& strides = x.strides();
  return {x.data<T>() + b * strides[0] + head * D, strides[1], D};
}

/// to (padded, D / step): rows [t0, t0 + rows), zeros around.
template <class T, class Word>
void load_rows(Word* to,
               const Padded& pad,
               const HeadRows<T>& from,
               std::int64_t t0,
               std::int64_t rows,
               std::int64_t padded) {
  using To = Element<Word>;
  simd([=, D = from.D, width = pad.D, out = reinterpret_cast<To*>(to)] {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* const in = from.row(t0 + r);
      To* const line = out + r * width;
      if constexpr (std::is_same_v<T, To>) {
        std::memcpy(line, in, static_cast<std::size_t>(D) * sizeof(T));
      } else {
        put(line, D, false, [=](std::int64_t d) { return load(in[d]); });
      }
      std::fill(line + D, line + width, To{});
    }
    std::fill(out + rows * width, out + padded * width, To{});
  });
}

/// to (padded / 2, D): a word holds one channel of two neighbouring rows of (padded, D / 2).
inline void pair_loaded(bf16x2* to, const bf16x2* rows, const Padded& pad, std::int64_t padded) {
  simd([=, D = pad.D] {
    for (std::int64_t r = 0; r < padded; r += 2) {
      const bf16* const even = rows[r * D / 2].at;
      const bf16* const odd = even + D;
      bf16x2* const out = to + r / 2 * D;
#pragma omp simd
      for (std::int64_t d = 0; d < D; ++d) {
        const std::uint32_t high = odd[d].bits, low = even[d].bits;
        out[d] = std::bit_cast<bf16x2>(high << 16 | low);
      }
    }
  });
}

/// to (D / step, kPanel); rows: the words of (kPanel, D / step) from load_rows.
template <class Word>
void turn(Word* to, const Word* rows, const Padded& pad) {
  const std::int64_t width = pad.D / kStep<Word>;
  simd([=] {
    for (std::int64_t w = 0; w < width; ++w) {
#pragma omp simd
      for (std::int64_t l = 0; l < kPanel; ++l) {
        to[w * kPanel + l] = rows[l * width + w];
      }
    }
  });
}

/// Queries [t0, t0 + rows) of a sequence, rows <= kPanel, and what each of them sees.
struct QueryPanel {
  std::int64_t t0, rows;
  std::int64_t first_key, last_start;  // start of the earliest and of the latest document
  std::int32_t low[kPanel];            // first key of each query; lanes beyond rows see none

  QueryPanel(const std::int32_t* documents, std::int64_t t0_, std::int64_t T)
      : t0(t0_), rows(std::min(kPanel, T - t0_)) {
    const auto [first, last] = std::minmax_element(documents + t0, documents + t0 + rows);
    first_key = *first;
    last_start = rows < lanes() ? T : *last;
    std::copy_n(documents + t0, rows, low);
    std::fill(low + rows, low + kPanel, std::numeric_limits<std::int32_t>::max());
  }
  std::int64_t end() const { return t0 + rows; }
  /// Queries in whole vectors: the width of the panel's tiles.
  std::int64_t lanes() const { return round_up(rows, kLanes); }
  /// Where the walk over tiles starts. Tiles end at multiples of kKeys wherever it does, and keys
  /// that a query does not see leave its sums alone: other documents change no bit.
  std::int64_t first_tile() const { return first_key / kTileRows * kTileRows; }
  /// Keys of the tile at s0, in whole register blocks; the next tile starts behind them.
  std::int64_t keys(std::int64_t s0) const {
    return std::min(kKeys - s0 % kKeys, round_up(end() - s0, kTileRows));
  }
  /// Whether a query sees less than all of them.
  bool masks(std::int64_t s0) const { return s0 + keys(s0) > t0 + 1 || last_start > s0; }
};

/// Unit u belongs to slice u mod slices; a slice does its units one after the other in its own
/// scratch.
template <class Kernel>
void run_units(const Kernel& kernel,
               std::int64_t units,
               std::int64_t unit_bytes,
               const AttentionDims& dims,
               std::span<std::byte> scratch) {
  const std::int64_t slices = std::min(units, dims.slices);
  std::byte* const base = Scratch(scratch).bytes(slices * unit_bytes).data();
  parallel_for(slices, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      for (std::int64_t u = s; u < units; u += slices) {
        kernel.unit({base + s * unit_bytes, static_cast<std::size_t>(unit_bytes)}, u);
      }
    }
  });
}

/// Calls body(T{}, Word{}) with the storage type and what products are made of.
template <class Body>
void visit_words(DType dtype, Body&& body) {
  visit_storage(dtype, [&](auto storage) {
    if constexpr (std::is_same_v<decltype(storage), bf16>) {
      if (has_bf16_dot()) {
        return body(storage, bf16x2{});
      }
    }
    body(storage, float{});
  });
}

inline float scale_of(const AttentionDims& dims) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.D)));
}

}  // namespace strata::cpu
