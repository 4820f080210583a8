#include "core/cpu/attention.h"

#include <algorithm>

#include "core/cpu/attention_tiles.h"

namespace strata::cpu {

namespace {

/// Running softmax of the queries of a panel.
struct Softmax {
  float top[kPanel], sum[kPanel];
  float keep[kPanel];  // by what the output so far must be multiplied
};

/// Largest of each lane's `keys` scores, at least -inf; unseen ones become -inf.
template <bool kMasked>
inline void find_top(float* scores,
                     std::int64_t stride,
                     std::int64_t keys,
                     const std::int32_t* low,
                     std::int32_t s0,
                     std::int32_t t,
                     float* top) {
  float best[kLanes];
  std::fill(best, best + kLanes, kMinusInfinity);
  for (std::int64_t j = 0; j < keys; ++j) {
    float* const row = scores + j * stride;
    const auto key = static_cast<std::int32_t>(s0 + j);
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      float s = row[l];
      if constexpr (kMasked) {
        s = (key >= low[l]) & (key <= t + l) ? s : kMinusInfinity;
        row[l] = s;
      }
      best[l] = s > best[l] ? s : best[l];
    }
  }
  std::copy(best, best + kLanes, top);
}

/// scores (keys, lanes) -> e^(scale * score - top) where seen, else 0. Returns whether any
/// output must be rescaled.
bool soften(
    float* scores, const QueryPanel& panel, std::int64_t s0, float scale, Softmax& softmax) {
  const std::int64_t keys = panel.keys(s0), lanes = panel.lanes();
  const bool masked = panel.masks(s0);
  bool changed = false;
  simd([&, keys, lanes, masked, scale] {
    for (std::int64_t l0 = 0; l0 < lanes; l0 += kLanes) {
      float shift[kLanes], sum[kLanes] = {};
      const auto first = static_cast<std::int32_t>(s0),
                 t = static_cast<std::int32_t>(panel.t0 + l0);
      if (masked) {
        find_top<true>(scores + l0, lanes, keys, panel.low + l0, first, t, shift);
      } else {
        find_top<false>(scores + l0, lanes, keys, panel.low + l0, first, t, shift);
      }
      float* const top = softmax.top + l0;
      float* const keep = softmax.keep + l0;
      int moved = 0;
#pragma omp simd reduction(| : moved)
      for (int l = 0; l < kLanes; ++l) {
        const float tile_top = shift[l] * scale;
        const float high = tile_top > top[l] ? tile_top : top[l];
        moved |= high != top[l];
        shift[l] = high == kMinusInfinity ? 0.f : high;  // a lane that sees nothing yet
        keep[l] = exp_softmax(top[l] - shift[l]);
        top[l] = high;
      }
      changed |= moved != 0;
      for (std::int64_t j = 0; j < keys; ++j) {
        float* const row = scores + j * lanes + l0;
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) {
          const float p = exp_softmax(fma_(row[l], scale, -shift[l]));
          sum[l] += p;
          row[l] = p;
        }
      }
#pragma omp simd
      for (int l = 0; l < kLanes; ++l) {
        softmax.sum[l0 + l] = fma_(softmax.sum[l0 + l], keep[l], sum[l]);
      }
    }
  });
  return changed;
}

/// output (D, lanes) *= keep
void rescale(float* output, const float* keep, std::int64_t D, std::int64_t lanes) {
  simd([=] {
    for (std::int64_t d = 0; d < D; ++d) {
      float* const row = output + d * lanes;
#pragma omp simd
      for (std::int64_t l = 0; l < lanes; ++l) {
        row[l] *= keep[l];
      }
    }
  });
}

/// Scratch of a unit of the forward.
template <class Word>
struct ForwardBuffers {
  static constexpr std::int64_t kWordBytes = sizeof(Word);
  Word *keys, *values;           // (T, D / step), (T / step, D)
  Word *rows, *query, *weights;  // (kPanel, D / step), (D / step, kPanel), (kKeys / step, lanes)
  float *scores, *output;        // (kKeys, lanes), (D, lanes)

  static std::int64_t size_bytes(const Padded& pad) {
    return 4 * (2 * pad.sequence() + 2 * pad.panel() + 2 * kKeys * kPanel + pad.panel());
  }
  ForwardBuffers(std::span<std::byte> bytes, const Padded& pad) {
    Scratch scratch(bytes);
    keys = scratch.array<Word>(pad.sequence() / kStep<Word>);
    values = scratch.array<Word>(pad.sequence() / kStep<Word>);
    rows = scratch.array<Word>(pad.panel() / kStep<Word>);
    query = scratch.array<Word>(pad.panel() / kStep<Word>);
    scores = scratch.array<float>(kKeys * kPanel);
    output = scratch.array<float>(pad.panel());
    if constexpr (kStep<Word> == 1) {
      weights = scores;
    } else {
      weights = scratch.array<Word>(kKeys * kPanel / kStep<Word>);
    }
  }
};

/// A unit is a piece of one (sequence, key head): every pieces-th panel of its query heads.
std::int64_t pieces_of(const AttentionDims& dims) {
  constexpr std::int64_t kUnitsPerSlice = 4;
  const std::int64_t heads = dims.B * dims.K, panels = (dims.T + kPanel - 1) / kPanel;
  const std::int64_t wanted = (kUnitsPerSlice * dims.slices + heads - 1) / heads;
  return std::clamp<std::int64_t>(wanted, 1, panels * (dims.H / dims.K));
}

template <class T, class Word>
struct Forward {
  const AttentionDims& dims;
  Padded pad;
  std::int64_t pieces;
  const Tensor &y, &lse, &q, &k, &v;
  const std::int32_t* documents;
  float scale;

  void load_values(const ForwardBuffers<Word>& buffers, const HeadRows<T>& from) const {
    if constexpr (kStep<Word> == 1) {
      load_rows(buffers.values, pad, from, 0, dims.T, pad.T);
    } else {
      for (std::int64_t t0 = 0; t0 < dims.T; t0 += kPanel) {
        const std::int64_t rows = std::min(kPanel, dims.T - t0),
                           padded = std::min(kPanel, pad.T - t0);
        load_rows(buffers.rows, pad, from, t0, rows, padded);
        pair_loaded(buffers.values + t0 / 2 * pad.D, buffers.rows, pad, padded);
      }
    }
  }

  void query_panel(const ForwardBuffers<Word>& buffers,
                   const QueryPanel& panel,
                   Softmax& softmax) const {
    constexpr std::int64_t kW = kStep<Word>;
    std::fill_n(softmax.top, kPanel, kMinusInfinity);
    std::fill_n(softmax.sum, kPanel, 0.f);
    const std::int64_t width = pad.D / kW, inner = (dims.D + kW - 1) / kW;
    const std::int64_t N = panel.lanes();
    bool empty = true;
    for (std::int64_t s0 = panel.first_tile(), M = 0; s0 < panel.end(); s0 += M) {
      M = panel.keys(s0);
      const TileView<Word> keys{buffers.keys + s0 * width, width, 1};
      tile_product(buffers.scores, N, keys, buffers.query, kPanel, M, N, inner, false);
      const bool changed = soften(buffers.scores, panel, s0, scale, softmax);
      if (changed && !empty) {
        rescale(buffers.output, softmax.keep, pad.D, N);
      }
      if constexpr (kW == 2) {
        pair_rows(buffers.weights, buffers.scores, N, M, N);
      }
      const TileView<Word> values{buffers.values + s0 / kW * pad.D, 1, pad.D};
      tile_product(buffers.output, N, values, buffers.weights, N, pad.D, N, M / kW, !empty);
      empty = false;
    }
  }

  void write(const ForwardBuffers<Word>& buffers,
             const QueryPanel& panel,
             const Softmax& softmax,
             const HeadRows<T>& out,
             float* lse_row) const {
    simd([&, output = buffers.output, D = dims.D, lanes = panel.lanes()] {
      for (std::int64_t r = 0; r < panel.rows; ++r) {
        const float inverse = 1.f / softmax.sum[r];
        const float* const column = output + r;
        put(out.row(panel.t0 + r), D, false, [=](std::int64_t d) {
          return column[d * lanes] * inverse;
        });
        lse_row[panel.t0 + r] = softmax.top[r] + log_(softmax.sum[r]);
      }
    });
  }

  void unit(std::span<std::byte> scratch, std::int64_t index) const {
    const std::int64_t piece = index % pieces, b = index / pieces / dims.K;
    const std::int64_t kh = index / pieces % dims.K, group = dims.H / dims.K;
    const ForwardBuffers<Word> buffers(scratch, pad);
    load_rows(buffers.keys, pad, head_rows<T>(k, dims.D, b, kh), 0, dims.T, pad.T);
    load_values(buffers, head_rows<T>(v, dims.D, b, kh));
    const std::int64_t panels = (dims.T + kPanel - 1) / kPanel;
    for (std::int64_t i = piece; i < group * panels; i += pieces) {
      const std::int64_t h = kh * group + i / panels;
      const QueryPanel panel(documents + b * dims.T, i % panels * kPanel, dims.T);
      load_rows(buffers.rows, pad, head_rows<T>(q, dims.D, b, h), panel.t0, panel.rows, kPanel);
      turn(buffers.query, buffers.rows, pad);
      Softmax softmax;
      query_panel(buffers, panel, softmax);
      write(buffers,
            panel,
            softmax,
            head_rows<T>(y, dims.D, b, h),
            lse.data<float>() + (b * dims.H + h) * dims.T);
    }
  }
};

}  // namespace

std::int64_t attention_forward_scratch_bytes(const AttentionDims& dims) {
  const std::int64_t units = dims.B * dims.K * pieces_of(dims);
  return std::min(units, dims.slices) * ForwardBuffers<float>::size_bytes(Padded(dims));
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
  const std::int64_t pieces = pieces_of(dims);
  visit_words(q.dtype(), [&](auto storage, auto word) {
    const Forward<decltype(storage), decltype(word)> kernel{
        dims, pad, pieces, y, lse, q, k, v, documents.data<std::int32_t>(), scale_of(dims)};
    run_units(
        kernel, dims.B * dims.K * pieces, ForwardBuffers<float>::size_bytes(pad), dims, scratch);
  });
}

}  // namespace strata::cpu
