#include "core/cpu/panel_avx512.h"

#include <algorithm>

#include <immintrin.h>

#include "core/cpu/simd.h"
#include "core/cpu/squares.h"
#include "core/cpu/transpose.h"

namespace strata::cpu {

// A template's instructions need a target attribute that it cannot take from its argument: kernels
// of floats are compiled for dot products too. The compiler invents none.
#define STRATA_TARGET_PANELS STRATA_TARGET_AVX512 ",avx512bf16"

namespace {

constexpr std::int64_t kVector = 16, kLine = kVector * kWordBytes;

__mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<std::int64_t>(count, 0, kVector)) - 1);
}
/// Of lanes of 2 bytes.
__mmask32 first_halves(std::int64_t count) {
  return static_cast<__mmask32>(
      (std::uint64_t{1} << std::clamp<std::int64_t>(count, 0, 2 * kVector)) - 1);
}

[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512i load_words(
    __mmask16 lanes, const std::byte* from) {
  return _mm512_maskz_loadu_epi32(lanes, from);
}
/// bf16 as the lower or upper halves of words. All lanes by masks: the plain forms make gcc 12 warn
/// of its own header.
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512i lower_halves(
    __mmask16 lanes, const void* from) {
  return _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(lanes, from));
}
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512i upper_halves(
    __mmask16 lanes, const void* from) {
  return _mm512_maskz_slli_epi32(0xffff, lower_halves(lanes, from), 16);
}
/// Words of which the first halves are in one row and the second in another.
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512i paired(
    __mmask16 first_mask, const std::byte* first, __mmask16 second_mask, const std::byte* second) {
  return _mm512_or_si512(lower_halves(first_mask, first), upper_halves(second_mask, second));
}

/// Lines of a panel of B in the order in which they are packed, two for each k of a call.
struct FetchOfB {
  const std::byte* from = nullptr;
  std::int64_t second = 0, step = 0, chunk = 0;

  explicit FetchOfB(const PanelSource* b) {
    if (b != nullptr) {
      const bool two_rows = b->along || b->across();
      from = b->first;
      second = two_rows ? b->pitch_bytes : kLine;
      step = two_rows ? 2 * b->pitch_bytes : b->pitch_bytes;
      chunk = b->along ? kLine : kPanelChunk * step;
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

  /// `across`: copies and fetches of pairs in two rows.
  template <bool across>
  [[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void take() {
    for (std::int64_t n = fetches; n > 0 && left.fetches > 0; --n) {
      fetch<across>();
    }
    for (std::int64_t n = copies; n > 0 && left.copies > 0; --n) {
      const std::byte* const from = left.from + copied * kLine;
      _mm512_storeu_si512(left.to + copied * kVector,
                          across ? paired(left.mask, from, left.mask, from + left.second)
                                 : load_words(left.mask, from));
      if (++copied == left.vectors) {
        copied = 0;
        --left.copies;
        left.from += left.from_pitch;
        left.to += left.to_pitch;
      }
    }
  }
  template <bool across>
  [[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void fetch() {
    if (across) {  // the panel before has fetched where they begin, as a rule
      constexpr std::int64_t kEnd = kPanelRows * std::int64_t{sizeof(bf16)} - 1;
      _mm_prefetch(reinterpret_cast<const char*>(left.fetched + kEnd), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(left.fetched + left.second + kEnd), _MM_HINT_T1);
      --left.fetches;
      left.fetched += left.from_pitch;
      return;
    }
    _mm_prefetch(reinterpret_cast<const char*>(left.fetched + fetched * kLine), _MM_HINT_T1);
    if (++fetched == left.lines) {
      // A row of A^T begins anywhere in a line.
      _mm_prefetch(reinterpret_cast<const char*>(left.fetched + fetched * kLine - 1), _MM_HINT_T1);
      fetched = 0;
      --left.fetches;
      left.fetched += left.from_pitch;
    }
  }
};

template <int R>
using Block = __m512[R][2];

template <PanelWord word>
[[gnu::target(STRATA_TARGET_PANELS), gnu::always_inline]] inline __m512 multiply_add(__m512 a,
                                                                                     __m512 b,
                                                                                     __m512 c) {
  if constexpr (word == PanelWord::f32) {
    return _mm512_fmadd_ps(a, b, c);
  } else {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
}

/// One word of k: R rows of A, `row` words apart, by 32 columns of B.
template <PanelWord word, int R, std::int64_t row>
[[gnu::target(STRATA_TARGET_PANELS), gnu::always_inline]] inline void add_step(Block<R>& acc,
                                                                               const float* a,
                                                                               const float* b) {
  const __m512 left = _mm512_loadu_ps(b), right = _mm512_loadu_ps(b + kVector);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    const __m512 value = _mm512_set1_ps(a[r * row]);
    acc[r][0] = multiply_add<word>(value, left, acc[r][0]);
    acc[r][1] = multiply_add<word>(value, right, acc[r][1]);
  }
}

/// bf16 as floats.
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512 widened(__mmask16 lanes,
                                                                                const void* from) {
  return _mm512_castsi512_ps(upper_halves(lanes, from));
}

template <PanelWord word>
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512 bias_of(
    const PanelCall& call, __mmask16 lanes, std::int64_t column) {
  if constexpr (word == PanelWord::f32) {
    return _mm512_maskz_loadu_ps(lanes, call.bias + column * kWordBytes);
  } else {
    return widened(lanes, call.bias + column * std::int64_t{sizeof(bf16)});
  }
}

template <PanelWord word, int R, bool whole, bool rounds>
[[gnu::target(STRATA_TARGET_PANELS), gnu::always_inline]] inline void write(const Block<R>& acc,
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
        sum = _mm512_add_ps(sum, bias_of<word>(call, lanes, v * kVector));
      }
      if constexpr (rounds) {
        bf16* const out = call.rounded + r * call.ld_rounded + v * kVector;
        if (call.add_rounded) {
          sum = _mm512_add_ps(widened(lanes, out), sum);
        }
        _mm256_mask_storeu_epi16(out, lanes, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
      } else if constexpr (whole) {
        _mm512_storeu_ps(to, sum);
      } else {
        _mm512_mask_storeu_ps(to, lanes, sum);
      }
    }
  }
}

template <PanelWord word, int R>
[[gnu::target(STRATA_TARGET_PANELS), gnu::always_inline]] inline void write_any(
    const Block<R>& acc, const PanelCall& call) {
  const bool whole = call.columns == kPanelColumns;
  if constexpr (word == PanelWord::bf16_pair) {
    if (call.rounded != nullptr) {
      return whole ? write<word, R, true, true>(acc, call) : write<word, R, false, true>(acc, call);
    }
  }
  whole ? write<word, R, true, false>(acc, call) : write<word, R, false, false>(acc, call);
}

/// Rows of what a call writes.
template <PanelWord word>
struct Written {
  const char* row;
  std::int64_t pitch_bytes;

  explicit Written(const PanelCall& call)
      : row(reinterpret_cast<const char*>(call.c)), pitch_bytes(call.ldc * kWordBytes) {
    if (word == PanelWord::bf16_pair && call.rounded != nullptr) {
      row = reinterpret_cast<const char*>(call.rounded);
      pitch_bytes = call.ld_rounded * std::int64_t{sizeof(bf16)};
    }
  }
  /// Rounded or not, the end of what is written is in one of these lines or right behind.
  void fetch_next() {
    _mm_prefetch(row, _MM_HINT_T0);
    _mm_prefetch(row + kPanelColumns * kWordBytes - 1, _MM_HINT_T0);
    row += pitch_bytes;
  }
};

template <PanelWord word, int R, bool along, bool fetches_b>
[[gnu::target(STRATA_TARGET_PANELS), gnu::noinline]] void multiply(const PanelCall& call) {
  constexpr bool across = word == PanelWord::bf16_pair && !along;
  constexpr std::int64_t row = along ? kPanelPitch : 1, step = along ? 1 : kPanelRows;
  Block<R> acc;
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  }
  const std::int64_t chunks = panel_chunks(call.depth);
  const float *a = call.a, *b = call.b;
  Written<word> c(call);
  Sharing sharing(call.share, chunks);
  FetchOfB fetch(call.next_b);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (chunk < call.rows) {  // all rows of C at once would hold up the loads of B behind them
      c.fetch_next();
    }
    if constexpr (fetches_b) {
      const std::byte* line = fetch.from;
#pragma GCC unroll 1
      for (int k = 0; k < kPanelChunk; ++k, a += step, b += kPanelColumns, line += fetch.step) {
        _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(line + fetch.second), _MM_HINT_T1);
        add_step<word, R, row>(acc, a, b);
      }
      fetch.from += fetch.chunk;
    } else {
#pragma GCC unroll 1
      for (int part = 0; part < Sharing::kParts; ++part) {
        sharing.take<across>();
#pragma GCC unroll 4
        for (int k = 0; k < kPanelChunk / Sharing::kParts; ++k, a += step, b += kPanelColumns) {
          add_step<word, R, row>(acc, a, b);
        }
      }
    }
  }
  write_any<word, R>(acc, call);
}

/// The square of a float is exact in double: one rounding, as with a product and a sum.
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline void add_square(__m512d& sum,
                                                                                 const float* at) {
  // All lanes by a mask: the plain form makes gcc 12 warn of its own header.
  const __m512d value = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(at));
  sum = _mm512_fmadd_pd(value, value, sum);
}

template <PanelWord word, int R>
void multiply_rows(const PanelCall& call) {
  const bool fetches = call.next_b != nullptr;
  if (call.along) {
    return fetches ? multiply<word, R, true, true>(call) : multiply<word, R, true, false>(call);
  }
  return fetches ? multiply<word, R, false, true>(call) : multiply<word, R, false, false>(call);
}

// A block higher than its rows computes on what the panel holds there and drops it.
template <PanelWord word>
void multiply_words(const PanelCall& call) {
  constexpr int kHalf = 8, kFew = 2;
  if (call.rows > kHalf) {
    return multiply_rows<word, kPanelRows>(call);
  }
  return call.rows > kFew ? multiply_rows<word, kHalf>(call) : multiply_rows<word, kFew>(call);
}

/// Words k of a source that does not lie along k, beginning at `column`; past the end, zeros.
template <bool across>
[[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] inline __m512i words_at(
    const PanelSource& from, std::int64_t k, std::int64_t column, __mmask16 lanes) {
  lanes = k < from.depth ? lanes : __mmask16{0};
  if constexpr (!across) {
    return load_words(lanes, from.first + k * from.pitch_bytes + column * kWordBytes);
  } else {
    const std::byte* const row =
        from.first + 2 * k * from.pitch_bytes + column * std::int64_t{sizeof(bf16)};
    const bool half = from.half && k == from.depth - 1;
    return paired(lanes, row, half ? __mmask16{0} : lanes, row + from.pitch_bytes);
  }
}

template <bool across>
[[gnu::target(STRATA_TARGET_AVX512)]] void copy_rows_of_b(float* to, const PanelSource& from) {
  const std::int64_t depth = panel_chunks(from.depth) * kPanelChunk;
  const __mmask16 left = first_lanes(from.extent), right = first_lanes(from.extent - kVector);
  for (std::int64_t k = 0; k < depth; ++k) {
    float* const out = to + k * kPanelColumns;
    _mm512_storeu_si512(out, words_at<across>(from, k, 0, left));
    _mm512_storeu_si512(out + kVector, words_at<across>(from, k, kVector, right));
  }
}

template <bool across>
[[gnu::target(STRATA_TARGET_AVX512)]] void copy_rows_of_a(float* to,
                                                          const PanelSource& from,
                                                          std::int64_t begin,
                                                          std::int64_t end) {
  const __mmask16 lanes = first_lanes(from.extent);
  for (std::int64_t k = begin; k < end; ++k) {
    _mm512_storeu_si512(to + k * kPanelRows, words_at<across>(from, k, 0, lanes));
  }
}

}  // namespace

[[gnu::target(STRATA_TARGET_AVX512)]] void pack_panel_of_b(float* to, const PanelSource& from) {
  if (from.along) {
    const std::int64_t depth = panel_chunks(from.depth) * kPanelChunk;
    if (from.extent < kPanelColumns || from.depth < depth) {
      std::fill_n(to, depth * kPanelColumns, 0.f);
    }
    return transpose_block(to,
                           kPanelColumns,
                           from.first,
                           from.pitch_bytes / kWordBytes,
                           from.extent,
                           from.depth,
                           kWordBytes);
  }
  from.across() ? copy_rows_of_b<true>(to, from) : copy_rows_of_b<false>(to, from);
}

[[gnu::target(STRATA_TARGET_AVX512)]] void pack_panel_of_a(float* to,
                                                           const PanelSource& from,
                                                           std::int64_t begin,
                                                           std::int64_t end) {
  const std::int64_t first = begin * kPanelChunk,
                     last = std::min(end, panel_chunks(from.depth)) * kPanelChunk;
  if (from.along) {
    const std::int64_t halves = 2 * from.depth - (from.half ? 1 : 0);
    for (std::int64_t r = 0; r < from.extent; ++r) {
      for (std::int64_t k = first; k < last; k += kPanelChunk) {
        _mm512_storeu_si512(
            to + r * kPanelPitch + k,
            _mm512_maskz_loadu_epi16(first_halves(halves - 2 * k),
                                     from.first + r * from.pitch_bytes + k * kWordBytes));
      }
    }
    return;
  }
  from.across() ? copy_rows_of_a<true>(to, from, first, last)
                : copy_rows_of_a<false>(to, from, first, last);
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
    return std::max<std::int64_t>(0, std::min(last, whole_panel_chunks(panel)) - first);
  };
  const std::int64_t copied = whole(next, begin, end), fetched = whole(then, then_begin, then_end);
  PanelShare share{.from_pitch = next.pitch_bytes};
  if (next.along) {  // a row at a time, as many vectors as chunks
    share.from = next.first + begin * kLine;
    share.to = to + begin * kPanelChunk;
    share.fetched = then.first + then_begin * kLine;
    share.to_pitch = kPanelPitch;
    share.copies = copied > 0 ? next.extent : 0;
    share.fetches = fetched > 0 ? then.extent : 0;
    share.vectors = copied;
    share.lines = fetched;
    return share;
  }
  if (next.across()) {
    share.second = next.pitch_bytes;
    share.from_pitch = 2 * next.pitch_bytes;
  }
  share.from = next.first + begin * kPanelChunk * share.from_pitch;
  share.to = to + begin * kPanelChunk * kPanelRows;
  share.fetched = then.first + then_begin * kPanelChunk * share.from_pitch;
  share.to_pitch = kPanelRows;
  share.copies = copied * kPanelChunk;
  share.fetches = fetched * kPanelChunk;
  share.vectors = share.lines = 1;
  share.mask = first_lanes(next.extent);
  return share;
}

void multiply_panels(const PanelCall& call) {
  call.word == PanelWord::f32 ? multiply_words<PanelWord::f32>(call)
                              : multiply_words<PanelWord::bf16_pair>(call);
}

}  // namespace strata::cpu
