#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
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

inline void copy_element(float& to, float from) {
  to = from;
}
inline void copy_element(float& to, bf16 from) {
  to = load(from);
}
inline void copy_element(bf16& to, bf16 from) {
  to = from;
}

/// Element d of row r goes to `to[r * row + d * step]`; rows beyond `rows` and channels beyond D,
/// up to (padded, width), are zero.
template <class T, class To>
void copy_rows(To* to,
               std::int64_t row,
               std::int64_t step,
               std::int64_t padded,
               std::int64_t width,
               const HeadRows<T>& from,
               std::int64_t t0,
               std::int64_t rows) {
  for (std::int64_t r = 0; r < padded; ++r) {
    To* const line = to + r * row;
    const std::int64_t D = r < rows ? from.D : 0;
    const T* const in = D > 0 ? from.row(t0 + r) : nullptr;
    for (std::int64_t d = 0; d < D; ++d) {
      copy_element(line[d * step], in[d]);
    }
    for (std::int64_t d = D; d < width; ++d) {
      line[d * step] = To{};
    }
  }
}

/// to (padded, width words).
template <class T, class Word>
void load_rows(Word* to,
               const Padded& pad,
               const HeadRows<T>& from,
               std::int64_t t0,
               std::int64_t rows,
               std::int64_t padded) {
  simd([=] {
    copy_rows(reinterpret_cast<Element<Word>*>(to), pad.D, 1, padded, pad.D, from, t0, rows);
  });
}

/// to (padded / step, D): a word holds one channel of neighbouring rows.
template <class T, class Word>
void load_paired(Word* to,
                 const Padded& pad,
                 const HeadRows<T>& from,
                 std::int64_t t0,
                 std::int64_t rows,
                 std::int64_t padded) {
  if constexpr (kStep<Word> == 1) {
    load_rows(to, pad, from, t0, rows, padded);
  } else {
    simd([=] {
      auto* const out = reinterpret_cast<bf16*>(to);
      HeadRows<T> half = from;
      half.stride *= 2;
      copy_rows(out, 2 * pad.D, 2, padded / 2, pad.D, half, t0 / 2, (rows + 1) / 2);
      half.data = from.row(1);
      copy_rows(out + 1, 2 * pad.D, 2, padded / 2, pad.D, half, t0 / 2, rows / 2);
    });
  }
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
    last_start = rows < kPanel ? T : *last;
    std::copy_n(documents + t0, rows, low);
    std::fill(low + rows, low + kPanel, std::numeric_limits<std::int32_t>::max());
  }
  std::int64_t first_tile() const { return first_key / kKeys * kKeys; }
  std::int64_t end() const { return t0 + rows; }
  /// Keys of the tile at s0 that any query sees, in whole register blocks.
  std::int64_t keys(std::int64_t s0) const {
    return std::min(kKeys, round_up(end() - s0, kTileRows));
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
