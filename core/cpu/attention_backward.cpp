#include <algorithm>

#include "core/cpu/attention.h"
#include "core/cpu/attention_tiles.h"

namespace strata::cpu {

namespace {

/// Scratch of a unit of the backward.
template <class Word>
struct BackwardBuffers {
  // Whole sequence: (T, D / step) words, (T / step, D) paired, (T, D) sums.
  Word *keys, *keys_paired, *values;
  float *dkeys, *dvalues;
  // One panel: (kPanel, D / step) rows, (D / step, kPanel) turned, (kPanel / step, D) paired.
  Word *query_rows, *query, *query_paired, *dout_rows, *dout, *dout_paired;
  float* dquery;  // (kPanel, D)
  // One tile: (kKeys, lanes), then words paired along queries and along keys.
  float *scores, *dscores;
  Word *weights, *dweights, *dweights_paired;

  static std::int64_t size_bytes(const Padded& pad) {
    return 4 * (4 * pad.sequence() + 5 * pad.panel() + 4 * kKeys * kPanel);
  }
  BackwardBuffers(std::span<std::byte> bytes, const Padded& pad) {
    constexpr std::int64_t kW = kStep<Word>;
    Scratch scratch(bytes);
    keys = scratch.array<Word>(pad.sequence() / kW);
    values = scratch.array<Word>(pad.sequence() / kW);
    dkeys = scratch.array<float>(pad.sequence());
    dvalues = scratch.array<float>(pad.sequence());
    query_rows = scratch.array<Word>(pad.panel() / kW);
    dout_rows = scratch.array<Word>(pad.panel() / kW);
    query = scratch.array<Word>(pad.panel() / kW);
    dout = scratch.array<Word>(pad.panel() / kW);
    dquery = scratch.array<float>(pad.panel());
    scores = scratch.array<float>(kKeys * kPanel);
    dscores = scratch.array<float>(kKeys * kPanel);
    if constexpr (kW == 1) {
      keys_paired = keys;
      query_paired = query_rows;
      dout_paired = dout_rows;
      weights = scores;
      dweights = dweights_paired = dscores;
    } else {
      keys_paired = scratch.array<Word>(pad.sequence() / kW);
      query_paired = scratch.array<Word>(pad.panel() / kW);
      dout_paired = scratch.array<Word>(pad.panel() / kW);
      weights = scratch.array<Word>(kKeys * kPanel / kW);
      dweights = scratch.array<Word>(kKeys * kPanel / kW);
      dweights_paired = scratch.array<Word>(kKeys * kPanel / kW);
    }
  }
};

/// One key of a tile: scores -> p = e^(scale * score - lse) where seen, dscores -> p * (dp -
/// delta).
template <bool kMasked>
inline void weigh_row(float* scores,
                      float* dscores,
                      std::int64_t lanes,
                      const QueryPanel& panel,
                      std::int32_t key,
                      const float* lse,
                      const float* delta,
                      float scale) {
  const auto t = static_cast<std::int32_t>(panel.t0);
#pragma omp simd
  for (int l = 0; l < static_cast<int>(lanes); ++l) {
    float p = exp_softmax(fma_(scores[l], scale, -lse[l]));
    if constexpr (kMasked) {
      p = (key >= panel.low[l]) & (key <= t + l) ? p : 0.f;
    }
    scores[l] = p;
    dscores[l] = p * (dscores[l] - delta[l]);
  }
}

template <class T, class Word>
struct Backward {
  const AttentionDims& dims;
  Padded pad;
  const GradSink &dq, &dk, &dv;
  const Tensor& dy;
  const AttentionSaved& saved;
  const std::int32_t* documents;
  float scale;
  static constexpr std::int64_t kW = kStep<Word>;

  /// What a panel's queries bring along: e^(score - lse) is a weight, delta = rowsum(dy * y).
  struct Rows {
    float lse[kPanel] = {}, delta[kPanel] = {};
  };

  Rows load_panel(const BackwardBuffers<Word>& buffers,
                  std::int64_t b,
                  std::int64_t h,
                  const QueryPanel& panel) const {
    const auto query = head_rows<T>(saved.q, dims.D, b, h), grad = head_rows<T>(dy, dims.D, b, h);
    const auto out = head_rows<T>(saved.y, dims.D, b, h);
    load_rows(buffers.query_rows, pad, query, panel.t0, panel.rows, kPanel);
    turn(buffers.query, buffers.query_rows, pad);
    if constexpr (kW == 2) {
      pair_loaded(buffers.query_paired, buffers.query_rows, pad, kPanel);
    }
    load_rows(buffers.dout_rows, pad, grad, panel.t0, panel.rows, kPanel);
    turn(buffers.dout, buffers.dout_rows, pad);
    if constexpr (kW == 2) {
      pair_loaded(buffers.dout_paired, buffers.dout_rows, pad, kPanel);
    }
    Rows rows;
    const float* const lse = saved.lse.data<float>() + (b * dims.H + h) * dims.T + panel.t0;
    std::copy_n(lse, panel.rows, rows.lse);
    simd([&, D = dims.D] {
      for (std::int64_t r = 0; r < panel.rows; ++r) {
        const T *const g = grad.row(panel.t0 + r), *const o = out.row(panel.t0 + r);
        rows.delta[r] = lane_sum(D, [=](std::int64_t d) { return load(g[d]) * load(o[d]); });
      }
    });
    return rows;
  }

  void weigh(const BackwardBuffers<Word>& buffers,
             const QueryPanel& panel,
             std::int64_t s0,
             const Rows& rows) const {
    const std::int64_t M = panel.keys(s0), width = pad.D / kW, inner = (dims.D + kW - 1) / kW;
    const std::int64_t N = panel.lanes();
    const TileView<Word> keys{buffers.keys + s0 * width, width, 1};
    const TileView<Word> values{buffers.values + s0 * width, width, 1};
    tile_product(buffers.scores, N, keys, buffers.query, kPanel, M, N, inner, false);
    tile_product(buffers.dscores, N, values, buffers.dout, kPanel, M, N, inner, false);
    simd([&, scores = buffers.scores, dscores = buffers.dscores, factor = scale] {
      const bool masked = panel.masks(s0);
      for (std::int64_t j = 0; j < M; ++j) {
        float *const s = scores + j * N, *const ds = dscores + j * N;
        const auto key = static_cast<std::int32_t>(s0 + j);
        if (masked) {
          weigh_row<true>(s, ds, N, panel, key, rows.lse, rows.delta, factor);
        } else {
          weigh_row<false>(s, ds, N, panel, key, rows.lse, rows.delta, factor);
        }
      }
    });
    if constexpr (kW == 2) {
      pair_columns(buffers.weights, buffers.scores, N, M, N);
      pair_columns(buffers.dweights, buffers.dscores, N, M, N);
      pair_rows(buffers.dweights_paired, buffers.dscores, N, M, N);
    }
  }

  void query_panel(const BackwardBuffers<Word>& buffers,
                   std::int64_t b,
                   std::int64_t h,
                   const QueryPanel& panel) const {
    const Rows rows = load_panel(buffers, b, h, panel);
    std::fill_n(buffers.dquery, pad.panel(), 0.f);
    // Whole register blocks of queries: what stands in lanes beyond the panel's ends in rows that
    // nobody reads.
    const std::int64_t queries = round_up(panel.rows, kTileRows);
    const std::int64_t D = pad.D, N = panel.lanes(), inner = N / kW;
    for (std::int64_t s0 = panel.first_tile(), M = 0; s0 < panel.end(); s0 += M) {
      M = panel.keys(s0);
      weigh(buffers, panel, s0, rows);
      const std::int64_t at = s0 * D;
      const TileView<Word> p{buffers.weights, inner, 1}, ds{buffers.dweights, inner, 1};
      const TileView<Word> ds_turned{buffers.dweights_paired, 1, N};
      tile_product(buffers.dvalues + at, D, p, buffers.dout_paired, D, M, D, inner, true);
      tile_product(buffers.dkeys + at, D, ds, buffers.query_paired, D, M, D, inner, true);
      tile_product(
          buffers.dquery, D, ds_turned, buffers.keys_paired + at / kW, D, queries, D, M / kW, true);
    }
    if (dq) {
      write(dq, head_rows<T>(dq.tensor, dims.D, b, h), panel.t0, panel.rows, buffers.dquery, scale);
    }
  }

  void write(const GradSink& sink,
             const HeadRows<T>& to,
             std::int64_t t0,
             std::int64_t rows,
             const float* from,
             float factor) const {
    simd([=, D = pad.D, add = sink.mode == Accumulate::add] {
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* const row = from + r * D;
        put(to.row(t0 + r), to.D, add, [=](std::int64_t d) { return row[d] * factor; });
      }
    });
  }

  void unit(std::span<std::byte> scratch, std::int64_t index) const {
    const std::int64_t b = index / dims.K, kh = index % dims.K, group = dims.H / dims.K;
    const BackwardBuffers<Word> buffers(scratch, pad);
    const auto keys = head_rows<T>(saved.k, dims.D, b, kh);
    load_rows(buffers.keys, pad, keys, 0, dims.T, pad.T);
    if constexpr (kW == 2) {
      pair_loaded(buffers.keys_paired, buffers.keys, pad, pad.T);
    }
    load_rows(buffers.values, pad, head_rows<T>(saved.v, dims.D, b, kh), 0, dims.T, pad.T);
    std::fill_n(buffers.dkeys, pad.sequence(), 0.f);
    std::fill_n(buffers.dvalues, pad.sequence(), 0.f);
    for (std::int64_t h = kh * group; h < (kh + 1) * group; ++h) {
      for (std::int64_t t0 = 0; t0 < dims.T; t0 += kPanel) {
        query_panel(buffers, b, h, QueryPanel(documents + b * dims.T, t0, dims.T));
      }
    }
    if (dk) {
      write(dk, head_rows<T>(dk.tensor, dims.D, b, kh), 0, dims.T, buffers.dkeys, scale);
    }
    if (dv) {
      write(dv, head_rows<T>(dv.tensor, dims.D, b, kh), 0, dims.T, buffers.dvalues, 1.f);
    }
  }
};

}  // namespace

std::int64_t attention_backward_scratch_bytes(const AttentionDims& dims) {
  const std::int64_t units = dims.B * dims.K;
  return std::min(units, dims.slices) * BackwardBuffers<float>::size_bytes(Padded(dims));
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
  visit_words(dy.dtype(), [&](auto storage, auto word) {
    const Backward<decltype(storage), decltype(word)> kernel{
        dims, pad, dq, dk, dv, dy, saved, documents.data<std::int32_t>(), scale_of(dims)};
    run_units(kernel, dims.B * dims.K, BackwardBuffers<float>::size_bytes(pad), dims, scratch);
  });
}

}  // namespace strata::cpu
