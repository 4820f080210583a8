#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "core/cpu/attention.h"
#include "core/cpu/lanes.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/cpu/tile.h"
#include "core/parallel_for.h"

namespace strata::cpu {

// What forward and backward of attention share: tiles in f32, the range of keys a query sees, and
// how units of work find their scratch.

inline constexpr std::int64_t kTile = kAttentionTile;
static_assert(kTile % kTileRows == 0 && kTile % kLanes == 0);
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Widths of the f32 copies that tiles work on: heads padded to whole lanes, sequences to whole
/// tiles, with zeros.
struct Padded {
  std::int64_t D, T;
  explicit Padded(const AttentionDims& dims)
      : D(round_up(dims.D, kLanes)), T(round_up(dims.T, kTile)) {}
  std::int64_t sequence() const { return T * D; }
  std::int64_t tile() const { return kTile * D; }
};

/// One head of one sequence inside a (B, T, heads * D) tensor.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t stride, D;
  T* row(std::int64_t t) const { return data + t * stride; }
};

template <class T>
HeadRows<T> head_rows(const Tensor& x,
                      const AttentionDims& dims,
                      std::int64_t heads,
                      std::int64_t b,
                      std::int64_t head) {
  const std::int64_t stride = heads * dims.D;
  return {x.data<T>() + b * dims.T * stride + head * dims.D, stride, dims.D};
}

/// to (kTile, width) = scale * rows [t0, t0 + rows), zeros around.
template <class T>
inline void load_tile(float* to,
                      std::int64_t width,
                      const HeadRows<T>& from,
                      std::int64_t t0,
                      std::int64_t rows,
                      float scale) {
  for (std::int64_t r = 0; r < kTile; ++r) {
    float* const line = to + r * width;
    std::int64_t d = 0;
    if (r < rows) {
      const T* const in = from.row(t0 + r);
      put(line, from.D, false, [=](std::int64_t i) { return load(in[i]) * scale; });
      d = from.D;
    }
    for (; d < width; ++d) {
      line[d] = 0.f;
    }
  }
}

/// to: one (D, kTile) transposed tile after the other, each in the room of a (kTile, padded D) one.
template <class T>
inline void load_transposed(float* to,
                            const Padded& pad,
                            const HeadRows<T>& from,
                            std::int64_t T_) {
  for (std::int64_t t0 = 0; t0 < T_; t0 += kTile) {
    float* const tile = to + t0 * pad.D;
    const std::int64_t rows = std::min(kTile, T_ - t0);
    for (std::int64_t r = 0; r < kTile; ++r) {
      for (std::int64_t d = 0; d < from.D; ++d) {
        tile[d * kTile + r] = r < rows ? load(from.row(t0 + r)[d]) : 0.f;
      }
    }
  }
}

template <class T>
inline void load_sequence(float* to, const Padded& pad, const HeadRows<T>& from, std::int64_t T_) {
  for (std::int64_t t0 = 0; t0 < T_; t0 += kTile) {
    load_tile(to + t0 * pad.D, pad.D, from, t0, std::min(kTile, T_ - t0), 1.f);
  }
}

/// Query rows [t0, t0 + rows) of a sequence.
struct QueryTile {
  const std::int32_t* documents;  // of this sequence, (T)
  std::int64_t t0, rows;

  std::int64_t padded_rows() const { return round_up(rows, kTileRows); }
  /// Start of the first key tile that any of the rows sees.
  std::int64_t first_key_tile() const {
    const std::int32_t first = *std::min_element(documents + t0, documents + t0 + rows);
    return first / kTile * kTile;
  }
  std::int64_t last_key() const { return t0 + rows - 1; }
  std::int64_t keys(std::int64_t s0) const { return std::min(kTile, t0 + rows - s0); }
  /// Columns [low, high] of the key tile at s0 that row r sees; empty where low > high.
  int low(std::int64_t r, std::int64_t s0) const {
    return static_cast<int>(documents[t0 + r] - s0);
  }
  int high(std::int64_t r, std::int64_t s0) const { return static_cast<int>(t0 + r - s0); }
};

/// Unit u belongs to slice u mod slices; a slice does its units one after the other in its own
/// scratch.
template <class Kernel>
void run_units(const Kernel& kernel,
               std::int64_t units,
               std::int64_t numel,
               const AttentionDims& dims,
               std::span<std::byte> scratch) {
  const std::int64_t slices = std::min(units, dims.slices);
  float* const base = Scratch(scratch).array<float>(slices * numel);
  parallel_for(slices, 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t s = begin; s < end; ++s) {
        for (std::int64_t u = s; u < units; u += slices) {
          kernel.unit(base + s * numel, u);
        }
      }
    });
  });
}

inline std::int64_t unit_scratch_bytes(std::int64_t units,
                                       const AttentionDims& dims,
                                       std::int64_t numel) {
  return aligned_bytes(std::min(units, dims.slices) * numel * size_bytes(DType::f32));
}

inline float scale_of(const AttentionDims& dims) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.D)));
}

}  // namespace strata::cpu
