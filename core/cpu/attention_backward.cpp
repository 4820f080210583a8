#include <algorithm>

#include "core/cpu/attention_tiles.h"

namespace strata::cpu {

namespace {

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

}  // namespace

std::int64_t attention_backward_scratch_bytes(const AttentionDims& dims) {
  return unit_scratch_bytes(dims.B * dims.K, dims, BackwardBuffers::numel(Padded(dims)));
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
