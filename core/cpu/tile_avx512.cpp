#include "core/cpu/tile_avx512.h"

#include <algorithm>
#include <bit>

#include <immintrin.h>

#include "core/cpu/simd.h"

#define STRATA_TARGET_BF16_DOT STRATA_TARGET_AVX512 ",avx512bf16"

namespace strata::cpu {

namespace {

struct Fma {
  [[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] static inline __m512 step(
      const float* a, __m512 b, __m512 c) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*a), b, c);
  }
};

struct Dot {
  [[gnu::target(STRATA_TARGET_BF16_DOT), gnu::always_inline]] static inline __m512 step(
      const bf16x2* a, __m512 b, __m512 c) {
    const __m512 pair = _mm512_castsi512_ps(_mm512_set1_epi32(std::bit_cast<int>(*a)));
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(pair), reinterpret_cast<__m512bh>(b));
  }
};

// A block of R rows and V vectors of 16 columns is R * V accumulators, V vectors of B and one word
// of A: up to 24 + 4 + 1 of 32 registers. Step's instructions need a target attribute that a
// template cannot take from its argument, so both kinds are compiled for the wider one; the
// compiler invents no bf16 instruction.
template <class Step, class Word, int R, int V>
[[gnu::target(STRATA_TARGET_BF16_DOT)]] void block(float* C,
                                                   std::int64_t ldc,
                                                   const TileView<Word>& A,
                                                   const Word* B,
                                                   std::int64_t ldb,
                                                   std::int64_t K,
                                                   bool add) {
  __m512 acc[R][V];
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      acc[m][v] = add ? _mm512_loadu_ps(C + m * ldc + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t k = 0; k < K; ++k) {
    __m512 b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      b[v] = _mm512_loadu_ps(B + k * ldb + 16 * v);
    }
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        acc[m][v] = Step::step(A.data + m * A.row + k * A.column, b[v], acc[m][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      _mm512_storeu_ps(C + m * ldc + 16 * v, acc[m][v]);
    }
  }
}

template <class Step, int R, int V, class Word>
void panel(float* C,
           std::int64_t ldc,
           const TileView<Word>& A,
           const Word* B,
           std::int64_t ldb,
           std::int64_t M,
           std::int64_t K,
           bool add) {
  for (std::int64_t m = 0; m < M; m += R) {
    block<Step, Word, R, V>(
        C + m * ldc, ldc, {A.data + m * A.row, A.row, A.column}, B, ldb, K, add);
  }
}

template <class Step, class Word>
void product(float* C,
             std::int64_t ldc,
             const TileView<Word>& A,
             const Word* B,
             std::int64_t ldb,
             std::int64_t M,
             std::int64_t N,
             std::int64_t K,
             bool add) {
  for (std::int64_t n = 0; n < N;) {
    const std::int64_t left = (N - n) / 16,
                       vectors = left % 3 == 0 ? 3 : std::min<std::int64_t>(left, 4);
    switch (vectors) {
      case 4:
        panel<Step, 6, 4>(C + n, ldc, A, B + n, ldb, M, K, add);
        break;
      case 3:
        panel<Step, 8, 3>(C + n, ldc, A, B + n, ldb, M, K, add);
        break;
      case 2:
        panel<Step, 8, 2>(C + n, ldc, A, B + n, ldb, M, K, add);
        break;
      default:
        panel<Step, 8, 1>(C + n, ldc, A, B + n, ldb, M, K, add);
    }
    n += vectors * 16;
  }
}

}  // namespace

void tile_product_avx512(float* C,
                         std::int64_t ldc,
                         const TileView<float>& A,
                         const float* B,
                         std::int64_t ldb,
                         std::int64_t M,
                         std::int64_t N,
                         std::int64_t K,
                         bool add) {
  product<Fma>(C, ldc, A, B, ldb, M, N, K, add);
}

void tile_product_avx512(float* C,
                         std::int64_t ldc,
                         const TileView<bf16x2>& A,
                         const bf16x2* B,
                         std::int64_t ldb,
                         std::int64_t M,
                         std::int64_t N,
                         std::int64_t K,
                         bool add) {
  product<Dot>(C, ldc, A, B, ldb, M, N, K, add);
}

[[gnu::target(STRATA_TARGET_BF16_DOT)]] void pair_columns(
    bf16x2* to, const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; c += 16) {
      const __m256bh pairs = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + r * stride + c));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (r * columns + c) / 2),
                          reinterpret_cast<__m256i>(pairs));
    }
  }
}

[[gnu::target(STRATA_TARGET_BF16_DOT)]] void pair_rows(
    bf16x2* to, const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  // Two rows end to end -> word l holds element l of each.
  alignas(64) std::uint16_t order[32];
  for (int i = 0; i < 32; ++i) {
    order[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 16);
  }
  const __m512i interleave = _mm512_load_si512(order);
  for (std::int64_t r = 0; r < rows; r += 2) {
    for (std::int64_t c = 0; c < columns; c += 16) {
      const float* const in = from + r * stride + c;
      const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + stride), _mm512_loadu_ps(in));
      _mm512_storeu_si512(
          to + r / 2 * columns + c,
          _mm512_maskz_permutexvar_epi16(0xffffffffu, interleave, reinterpret_cast<__m512i>(both)));
    }
  }
}

}  // namespace strata::cpu
