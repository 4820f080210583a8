#include "core/cpu/attention.h"

#include <algorithm>

#include "core/cpu/attention_tiles.h"

namespace strata::cpu {

namespace {

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

}  // namespace

std::int64_t attention_forward_scratch_bytes(const AttentionDims& dims) {
  return unit_scratch_bytes(dims.B * dims.H, dims, ForwardBuffers::numel(Padded(dims)));
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

}  // namespace strata::cpu
