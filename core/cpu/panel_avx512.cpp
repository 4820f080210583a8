#include "core/cpu/panel_avx512.h"

#include <algorithm>

#include <immintrin.h>

#include "core/cpu/simd.h"
#include "core/cpu/squares.h"
#include "core/cpu/transpose.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kVector = 16;

__mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<std::int64_t>(count, 0, kVector)) - 1);
}

/// Lines of a panel of B in the order in which they are packed, two for each k of a call.
struct FetchOfB {
  const float* from = nullptr;
  std::int64_t second = 0, step = 0, chunk = 0;

  explicit FetchOfB(const PanelSource* b) {
    if (b != nullptr) {
      from = b->first;
      second = b->along ? b->pitch : kVector;
      step = b->along ? 2 * b->pitch : b->pitch;
      chunk = b->along ? kPanelChunk : kPanelChunk * b->pitch;
    }
  }
};

/// What of a share falls to each few k, a vector at a time: many at once would fill the buffers of
/// loads that miss the first cache, which the product needs.
struct Sharing {
  static constexpr std::int64_t kParts = 4;  // of a chunk of k
  PanelShare left;
  std::int64_t copies, fetches;
  std::int64_t copied = 0, fetched = 0;  // of the row in hand

  Sharing(const PanelShare& share, std::int64_t chunks) : left(share) {
    const std::int64_t parts = kParts * chunks;
    copies = (share.copies * share.vectors + parts - 1) / parts;
    fetches = (share.fetches * share.lines + parts - 1) / parts;
  }

  [[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void take() {
    for (std::int64_t n = fetches; n > 0 && left.fetches > 0; --n) {
      _mm_prefetch(reinterpret_cast<const char*>(left.fetched + fetched * kVector), _MM_HINT_T1);
      if (++fetched == left.lines) {
        // A row of A^T begins anywhere in a line.
        _mm_prefetch(reinterpret_cast<const char*>(left.fetched + fetched * kVector - 1),
                     _MM_HINT_T1);
        fetched = 0;
        --left.fetches;
        left.fetched += left.from_pitch;
      }
    }
    for (std::int64_t n = copies; n > 0 && left.copies > 0; --n) {
      _mm512_storeu_ps(left.to + copied * kVector,
                       _mm512_maskz_loadu_ps(left.mask, left.from + copied * kVector));
      if (++copied == left.vectors) {
        copied = 0;
        --left.copies;
        left.from += left.from_pitch;
        left.to += left.to_pitch;
      }
    }
  }
};

template <int R>
using Block = __m512[R][2];

/// One k: R rows of A, `row` floats apart, by 32 columns of B.
template <int R, std::int64_t row>
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void add_step(Block<R>& acc,
                                                                               const float* a,
                                                                               const float* b) {
  const __m512 left = _mm512_loadu_ps(b), right = _mm512_loadu_ps(b + kVector);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    const __m512 value = _mm512_set1_ps(a[r * row]);
    acc[r][0] = _mm512_fmadd_ps(value, left, acc[r][0]);
    acc[r][1] = _mm512_fmadd_ps(value, right, acc[r][1]);
  }
}

template <int R, bool whole>
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void write(const Block<R>& acc,
                                                                            const PanelCall& call) {
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    if (r == call.rows) {
      return;
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const __mmask16 lanes = whole ? __mmask16{0xffff} : first_lanes(call.columns - v * kVector);
      float* const to = call.c + r * call.ldc + v * kVector;
      __m512 sum = acc[r][v];
      if (call.add) {
        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), sum);
      }
      if (call.bias != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, call.bias + v * kVector));
      }
      if constexpr (whole) {
        _mm512_storeu_ps(to, sum);
      } else {
        _mm512_mask_storeu_ps(to, lanes, sum);
      }
    }
  }
}

template <int R, bool along, bool fetches_b>
[[gnu::target(STRATA_TARGET_AVX512), gnu::noinline]] void multiply(const PanelCall& call) {
  constexpr std::int64_t row = along ? kPanelPitch : 1, step = along ? 1 : kPanelRows;
  Block<R> acc;
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  }
  const std::int64_t chunks = panel_chunks(call.depth);
  const float *a = call.a, *b = call.b, *c = call.c;
  Sharing sharing(call.share, chunks);
  FetchOfB fetch(call.next_b);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (chunk < call.rows) {  // all rows of C at once would hold up the loads of B behind them
      _mm_prefetch(reinterpret_cast<const char*>(c), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(c + kPanelColumns - 1), _MM_HINT_T0);
      c += call.ldc;
    }
    if constexpr (fetches_b) {
      const float* line = fetch.from;
#pragma GCC unroll 1
      for (int k = 0; k < kPanelChunk; ++k, a += step, b += kPanelColumns, line += fetch.step) {
        _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(line + fetch.second), _MM_HINT_T1);
        add_step<R, row>(acc, a, b);
      }
      fetch.from += fetch.chunk;
    } else {
#pragma GCC unroll 1
      for (int part = 0; part < Sharing::kParts; ++part) {
        sharing.take();
#pragma GCC unroll 4
        for (int k = 0; k < kPanelChunk / Sharing::kParts; ++k, a += step, b += kPanelColumns) {
          add_step<R, row>(acc, a, b);
        }
      }
    }
  }
  if (call.columns == kPanelColumns) {
    write<R, true>(acc, call);
  } else {
    write<R, false>(acc, call);
  }
}

/// The square of a float is exact in double: one rounding, as with a product and a sum.
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void add_square(__m512d& sum,
                                                                                 const float* at) {
  // All lanes by a mask: the plain form makes gcc 12 warn of its own header.
  const __m512d value = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(at));
  sum = _mm512_fmadd_pd(value, value, sum);
}

template <int R>
void multiply_rows(const PanelCall& call) {
  if (call.along) {
    return call.next_b != nullptr ? multiply<R, true, true>(call) : multiply<R, true, false>(call);
  }
  return call.next_b != nullptr ? multiply<R, false, true>(call) : multiply<R, false, false>(call);
}

}  // namespace

[[gnu::target(STRATA_TARGET_AVX512)]] void pack_panel_of_b(float* to, const PanelSource& from) {
  const std::int64_t depth = panel_chunks(from.depth) * kPanelChunk;
  if (from.along) {
    if (from.extent < kPanelColumns || from.depth < depth) {
      std::fill_n(to, depth * kPanelColumns, 0.f);
    }
    return transpose_block(
        to, kPanelColumns, from.first, from.pitch, from.extent, from.depth, sizeof(float));
  }
  const __mmask16 left = first_lanes(from.extent), right = first_lanes(from.extent - kVector);
  for (std::int64_t k = 0; k < depth; ++k) {
    const bool exists = k < from.depth;
    const float* const row = from.first + k * from.pitch;
    float* const out = to + k * kPanelColumns;
    _mm512_storeu_ps(out, _mm512_maskz_loadu_ps(exists ? left : __mmask16{0}, row));
    _mm512_storeu_ps(out + kVector,
                     _mm512_maskz_loadu_ps(exists ? right : __mmask16{0}, row + kVector));
  }
}

[[gnu::target(STRATA_TARGET_AVX512)]] void pack_panel_of_a(float* to,
                                                           const PanelSource& from,
                                                           std::int64_t begin,
                                                           std::int64_t end) {
  const std::int64_t first = begin * kPanelChunk,
                     last = std::min(end, panel_chunks(from.depth)) * kPanelChunk;
  if (from.along) {
    for (std::int64_t r = 0; r < from.extent; ++r) {
      for (std::int64_t k = first; k < last; k += kPanelChunk) {
        _mm512_storeu_ps(
            to + r * kPanelPitch + k,
            _mm512_maskz_loadu_ps(first_lanes(from.depth - k), from.first + r * from.pitch + k));
      }
    }
    return;
  }
  const __mmask16 lanes = first_lanes(from.extent);
  for (std::int64_t k = first; k < last; ++k) {
    _mm512_storeu_ps(
        to + k * kPanelRows,
        _mm512_maskz_loadu_ps(k < from.depth ? lanes : __mmask16{0}, from.first + k * from.pitch));
  }
}

[[gnu::target(STRATA_TARGET_AVX512)]] void add_squares_of_a(double* lanes,
                                                            const float* panel,
                                                            std::int64_t rows,
                                                            std::int64_t depth) {
  constexpr int kTogether = kPanelRows / 2;
  const std::int64_t end = panel_chunks(depth) * kPanelChunk;
  for (std::int64_t first = 0; first < rows; first += kTogether) {
    __m512d sums[kTogether];
#pragma GCC unroll 7
    for (int r = 0; r < kTogether; ++r) {
      sums[r] = _mm512_loadu_pd(lanes + (first + r) * kSquareLanes);
    }
    const float* at = panel + first * kPanelPitch;
    for (std::int64_t k = 0; k < end; k += kSquareLanes, at += kSquareLanes) {
#pragma GCC unroll 7
      for (int r = 0; r < kTogether; ++r) {
        add_square(sums[r], at + r * kPanelPitch);
      }
    }
#pragma GCC unroll 7
    for (int r = 0; r < kTogether; ++r) {
      _mm512_storeu_pd(lanes + (first + r) * kSquareLanes, sums[r]);
    }
  }
}

[[gnu::target(STRATA_TARGET_AVX512)]] void add_squares_of_b(double* sums,
                                                            const float* panel,
                                                            std::int64_t columns,
                                                            std::int64_t depth) {
  constexpr int kVectors = kPanelColumns / kSquareLanes;
  __m512d acc[kVectors];
  __mmask8 lanes[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    lanes[v] = static_cast<__mmask8>(first_lanes(columns - v * kSquareLanes));
    acc[v] = _mm512_maskz_loadu_pd(lanes[v], sums + v * kSquareLanes);
  }
  for (std::int64_t k = 0; k < depth; ++k, panel += kPanelColumns) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      add_square(acc[v], panel + v * kSquareLanes);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    _mm512_mask_storeu_pd(sums + v * kSquareLanes, lanes[v], acc[v]);
  }
}

PanelShare panel_share(float* to,
                       const PanelSource& next,
                       std::int64_t begin,
                       std::int64_t end,
                       const PanelSource& then,
                       std::int64_t then_begin,
                       std::int64_t then_end) {
  const auto whole = [](const PanelSource& panel, std::int64_t first, std::int64_t last) {
    return std::max<std::int64_t>(0, std::min(last, panel.depth / kPanelChunk) - first);
  };
  const std::int64_t copied = whole(next, begin, end), fetched = whole(then, then_begin, then_end);
  PanelShare share{.from_pitch = next.pitch};
  if (next.along) {  // a row at a time, as many vectors as chunks
    share.from = next.first + begin * kPanelChunk;
    share.to = to + begin * kPanelChunk;
    share.fetched = then.first + then_begin * kPanelChunk;
    share.to_pitch = kPanelPitch;
    share.copies = copied > 0 ? next.extent : 0;
    share.fetches = fetched > 0 ? then.extent : 0;
    share.vectors = copied;
    share.lines = fetched;
    return share;
  }
  share.from = next.first + begin * kPanelChunk * next.pitch;
  share.to = to + begin * kPanelChunk * kPanelRows;
  share.fetched = then.first + then_begin * kPanelChunk * then.pitch;
  share.to_pitch = kPanelRows;
  share.copies = copied * kPanelChunk;
  share.fetches = fetched * kPanelChunk;
  share.vectors = share.lines = 1;
  share.mask = first_lanes(next.extent);
  return share;
}

// A block higher than its rows computes on what the panel holds there and drops it.
void multiply_panels(const PanelCall& call) {
  constexpr int kHalf = 8, kFew = 2;
  if (call.rows > kHalf) {
    return multiply_rows<kPanelRows>(call);
  }
  return call.rows > kFew ? multiply_rows<kHalf>(call) : multiply_rows<kFew>(call);
}

}  // namespace strata::cpu
