#include "core/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu/lanes.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/cpu/tile.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kTile = kAttentionTile;
static_assert(kTile % kTileRows == 0 && kTile % kLanes == 0);
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

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

/// Running softmax of the rows of a query tile.
struct SoftmaxRows {
  float top[kTile], sum[kTile];
};

/// scores (a row of kTile) -> e^(score - top) where seen, else 0; returns by what the row's earlier
/// output must be multiplied.
inline float softmax_row(float* scores, int low, int high, float& top, float& sum) {
  float masked[kTile];
#pragma omp simd
  for (int c = 0; c < static_cast<int>(kTile); ++c) {
    masked[c] = (c >= low) & (c <= high) ? scores[c] : kMinusInfinity;
  }
  const float high_score = lane_max(kTile, top, [&](std::int64_t c) { return masked[c]; });
  if (high_score == kMinusInfinity) {  // the row sees nothing yet
    std::fill(scores, scores + kTile, 0.f);
    return 1.f;
  }
#pragma omp simd
  for (int c = 0; c < static_cast<int>(kTile); ++c) {
    scores[c] = exp_(masked[c] - high_score);
  }
  const float keep = exp_(top - high_score);
  sum = fma_(sum, keep, lane_sum(kTile, [&](std::int64_t c) { return scores[c]; }));
  top = high_score;
  return keep;
}

/// Scratch of one (sequence, query head) of the forward.
struct ForwardBuffers {
  float *keys, *values;  // (T / tile, D, tile), (T, D)
  float *query, *output, *scores;

  static std::int64_t numel(const Padded& pad) {
    return 2 * pad.sequence() + 2 * pad.tile() + kTile * kTile;
  }
  ForwardBuffers(float* at, const Padded& pad)
      : keys(at),
        values(keys + pad.sequence()),
        query(values + pad.sequence()),
        output(query + pad.tile()),
        scores(output + pad.tile()) {}
};

template <class T>
struct Forward {
  const AttentionDims& dims;
  Padded pad;
  const Tensor &y, &lse, &q, &k, &v;
  const std::int32_t* documents;
  float scale;

  void query_tile(const ForwardBuffers& buffers,
                  const HeadRows<T>& queries,
                  const HeadRows<T>& out,
                  float* lse_row,
                  const QueryTile& tile) const {
    SoftmaxRows softmax;
    std::fill_n(softmax.top, kTile, kMinusInfinity);
    std::fill_n(softmax.sum, kTile, 0.f);
    std::fill_n(buffers.output, pad.tile(), 0.f);
    load_tile(buffers.query, pad.D, queries, tile.t0, tile.rows, scale);
    const TileView query{buffers.query, pad.D, 1}, scores{buffers.scores, kTile, 1};
    for (std::int64_t s0 = tile.first_key_tile(); s0 <= tile.last_key(); s0 += kTile) {
      const std::int64_t M = tile.padded_rows();
      tile_product(
          buffers.scores, kTile, query, buffers.keys + s0 * pad.D, kTile, M, kTile, dims.D, false);
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const float keep = softmax_row(buffers.scores + r * kTile,
                                       tile.low(r, s0),
                                       tile.high(r, s0),
                                       softmax.top[r],
                                       softmax.sum[r]);
        float* const row = buffers.output + r * pad.D;
#pragma omp simd
        for (std::int64_t d = 0; d < pad.D; ++d) {
          row[d] *= keep;
        }
      }
      tile_product(buffers.output,
                   pad.D,
                   scores,
                   buffers.values + s0 * pad.D,
                   pad.D,
                   M,
                   pad.D,
                   tile.keys(s0),
                   true);
    }
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const float* const row = buffers.output + r * pad.D;
      const float inverse = 1.f / softmax.sum[r];
      put(out.row(tile.t0 + r), dims.D, false, [=](std::int64_t d) { return row[d] * inverse; });
      lse_row[tile.t0 + r] = softmax.top[r] + log_(softmax.sum[r]);
    }
  }

  void unit(float* scratch, std::int64_t index) const {
    const std::int64_t b = index / dims.H, h = index % dims.H, kh = h / (dims.H / dims.K);
    const ForwardBuffers buffers(scratch, pad);
    load_transposed(buffers.keys, pad, head_rows<T>(k, dims, dims.K, b, kh), dims.T);
    load_sequence(buffers.values, pad, head_rows<T>(v, dims, dims.K, b, kh), dims.T);
    const auto queries = head_rows<T>(q, dims, dims.H, b, h);
    const auto out = head_rows<T>(y, dims, dims.H, b, h);
    for (std::int64_t t0 = 0; t0 < dims.T; t0 += kTile) {
      query_tile(buffers,
                 queries,
                 out,
                 lse.data<float>() + index * dims.T,
                 {documents + b * dims.T, t0, std::min(kTile, dims.T - t0)});
    }
  }
};

/// Scratch of one (sequence, key head) of the backward.
struct BackwardBuffers {
  float *keys, *keys_turned, *values_turned, *dkeys, *dvalues;  // whole sequence
  float *query, *dquery, *doutput, *probabilities, *dscores;    // one tile

  static std::int64_t numel(const Padded& pad) {
    return 5 * pad.sequence() + 3 * pad.tile() + 2 * kTile * kTile;
  }
  BackwardBuffers(float* at, const Padded& pad)
      : keys(at),
        keys_turned(keys + pad.sequence()),
        values_turned(keys_turned + pad.sequence()),
        dkeys(values_turned + pad.sequence()),
        dvalues(dkeys + pad.sequence()),
        query(dvalues + pad.sequence()),
        dquery(query + pad.tile()),
        doutput(dquery + pad.tile()),
        probabilities(doutput + pad.tile()),
        dscores(probabilities + kTile * kTile) {}
};

template <class T>
struct Backward {
  const AttentionDims& dims;
  Padded pad;
  const GradSink &dq, &dk, &dv;
  const Tensor& dy;
  const AttentionSaved& saved;
  const std::int32_t* documents;
  float scale;

  /// probabilities and dscores of a tile pair, both (kTile, kTile); delta: rowsum(dy * y).
  void scores_of(const BackwardBuffers& buffers,
                 const QueryTile& tile,
                 std::int64_t s0,
                 const float* lse_rows,
                 const float* delta) const {
    const std::int64_t M = tile.padded_rows();
    const TileView query{buffers.query, pad.D, 1}, doutput{buffers.doutput, pad.D, 1};
    const float* const keys = buffers.keys_turned + s0 * pad.D;
    const float* const values = buffers.values_turned + s0 * pad.D;
    tile_product(buffers.probabilities, kTile, query, keys, kTile, M, kTile, dims.D, false);
    tile_product(buffers.dscores, kTile, doutput, values, kTile, M, kTile, dims.D, false);
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      float* const p = buffers.probabilities + r * kTile;
      float* const ds = buffers.dscores + r * kTile;
      const int low = tile.low(r, s0), high = tile.high(r, s0);
      const float shift = lse_rows[r], row_delta = delta[r];
#pragma omp simd
      for (int c = 0; c < static_cast<int>(kTile); ++c) {
        const float e = (c >= low) & (c <= high) ? p[c] - shift : kMinusInfinity;
        p[c] = exp_(e);
        ds[c] = p[c] * (ds[c] - row_delta);
      }
    }
  }

  void query_tile(const BackwardBuffers& buffers,
                  std::int64_t b,
                  std::int64_t h,
                  const QueryTile& tile) const {
    const auto grad = head_rows<T>(dy, dims, dims.H, b, h);
    const auto out = head_rows<T>(saved.y, dims, dims.H, b, h);
    load_tile(
        buffers.query, pad.D, head_rows<T>(saved.q, dims, dims.H, b, h), tile.t0, tile.rows, scale);
    load_tile(buffers.doutput, pad.D, grad, tile.t0, tile.rows, 1.f);
    std::fill_n(buffers.dquery, pad.tile(), 0.f);
    float delta[kTile];
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const T *const g = grad.row(tile.t0 + r), *const o = out.row(tile.t0 + r);
      delta[r] = lane_sum(dims.D, [=](std::int64_t d) { return load(g[d]) * load(o[d]); });
    }
    const float* const lse_rows = saved.lse.data<float>() + (b * dims.H + h) * dims.T + tile.t0;
    // Transposed views: one row of keys, all queries of the tile.
    const TileView p{buffers.probabilities, 1, kTile}, ds_turned{buffers.dscores, 1, kTile};
    const TileView ds{buffers.dscores, kTile, 1};
    for (std::int64_t s0 = tile.first_key_tile(); s0 <= tile.last_key(); s0 += kTile) {
      scores_of(buffers, tile, s0, lse_rows, delta);
      const std::int64_t at = s0 * pad.D, D = pad.D;
      tile_product(buffers.dvalues + at, D, p, buffers.doutput, D, kTile, D, tile.rows, true);
      tile_product(buffers.dkeys + at, D, ds_turned, buffers.query, D, kTile, D, tile.rows, true);
      tile_product(
          buffers.dquery, D, ds, buffers.keys + at, D, tile.padded_rows(), D, tile.keys(s0), true);
    }
    if (dq) {
      const auto to = head_rows<T>(dq.tensor, dims, dims.H, b, h);
      write(to, tile.t0, tile.rows, buffers.dquery, dq.mode, scale);
    }
  }

  void write(const HeadRows<T>& to,
             std::int64_t t0,
             std::int64_t rows,
             const float* from,
             Accumulate mode,
             float factor) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* const row = from + r * pad.D;
      put(to.row(t0 + r), dims.D, mode == Accumulate::add, [=](std::int64_t d) {
        return row[d] * factor;
      });
    }
  }

  void unit(float* scratch, std::int64_t index) const {
    const std::int64_t b = index / dims.K, kh = index % dims.K, group = dims.H / dims.K;
    const BackwardBuffers buffers(scratch, pad);
    const auto keys = head_rows<T>(saved.k, dims, dims.K, b, kh);
    load_sequence(buffers.keys, pad, keys, dims.T);
    load_transposed(buffers.keys_turned, pad, keys, dims.T);
    load_transposed(buffers.values_turned, pad, head_rows<T>(saved.v, dims, dims.K, b, kh), dims.T);
    std::fill_n(buffers.dkeys, pad.sequence(), 0.f);
    std::fill_n(buffers.dvalues, pad.sequence(), 0.f);
    for (std::int64_t h = kh * group; h < (kh + 1) * group; ++h) {
      for (std::int64_t t0 = 0; t0 < dims.T; t0 += kTile) {
        query_tile(buffers, b, h, {documents + b * dims.T, t0, std::min(kTile, dims.T - t0)});
      }
    }
    if (dk) {  // the query tiles carry the scale
      const auto to = head_rows<T>(dk.tensor, dims, dims.K, b, kh);
      write(to, 0, dims.T, buffers.dkeys, dk.mode, 1.f);
    }
    if (dv) {
      const auto to = head_rows<T>(dv.tensor, dims, dims.K, b, kh);
      write(to, 0, dims.T, buffers.dvalues, dv.mode, 1.f);
    }
  }
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

std::int64_t scratch_bytes(std::int64_t units, const AttentionDims& dims, std::int64_t numel) {
  return aligned_bytes(std::min(units, dims.slices) * numel * size_bytes(DType::f32));
}

float scale_of(const AttentionDims& dims) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.D)));
}

}  // namespace

std::int64_t attention_forward_scratch_bytes(const AttentionDims& dims) {
  return scratch_bytes(dims.B * dims.H, dims, ForwardBuffers::numel(Padded(dims)));
}

std::int64_t attention_backward_scratch_bytes(const AttentionDims& dims) {
  return scratch_bytes(dims.B * dims.K, dims, BackwardBuffers::numel(Padded(dims)));
}

void attention_forward(const Tensor& y,
                       const Tensor& lse,
                       const Tensor& q,
                       const Tensor& k,
                       const Tensor& v,
                       const Tensor& documents,
                       const AttentionDims& dims,
                       std::span<std::byte> scratch) {
  const Padded pad(dims);
  visit_storage(q.dtype(), [&](auto storage) {
    const Forward<decltype(storage)> kernel{
        dims, pad, y, lse, q, k, v, documents.data<std::int32_t>(), scale_of(dims)};
    run_units(kernel, dims.B * dims.H, ForwardBuffers::numel(pad), dims, scratch);
  });
}

void attention_backward(const GradSink& dq,
                        const GradSink& dk,
                        const GradSink& dv,
                        const Tensor& dy,
                        const AttentionSaved& saved,
                        const Tensor& documents,
                        const AttentionDims& dims,
                        std::span<std::byte> scratch) {
  const Padded pad(dims);
  visit_storage(dy.dtype(), [&](auto storage) {
    const Backward<decltype(storage)> kernel{
        dims, pad, dq, dk, dv, dy, saved, documents.data<std::int32_t>(), scale_of(dims)};
    run_units(kernel, dims.B * dims.K, BackwardBuffers::numel(pad), dims, scratch);
  });
}

}  // namespace strata::cpu
