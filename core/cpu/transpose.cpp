#include "core/cpu/transpose.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr int kVectorBytes = 64;

/// A square block whose rows fill one register each: N exchanges of halves, quarters, ... of pairs
/// of rows leave the columns in the registers (Eklundh, A fast computer method for matrix
/// transposing, 1972).
template <class T>
struct SquareBlock {
  static constexpr int N = kVectorBytes / static_cast<int>(sizeof(T));
  typedef T Vector __attribute__((vector_size(kVectorBytes)));

  template <int half>
  [[gnu::target(STRATA_TARGET_AVX512), gnu::always_inline]] static inline void exchange(
      Vector (&row)[N]) {
    Vector upper, lower;  // sources by lane: below N of the first row, from N on of the second
    for (int lane = 0; lane < N; ++lane) {
      const bool first = (lane & half) == 0;
      upper[lane] = static_cast<T>(first ? lane : N + lane - half);
      lower[lane] = static_cast<T>(first ? lane + half : N + lane);
    }
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
      if ((i & half) == 0) {
        const Vector a = row[i], b = row[i + half];
        row[i] = __builtin_shuffle(a, b, upper);
        row[i + half] = __builtin_shuffle(a, b, lower);
      }
    }
    if constexpr (half > 1) {
      exchange<half / 2>(row);
    }
  }

  [[gnu::target(STRATA_TARGET_AVX512)]] static void transpose(T* to,
                                                              std::int64_t to_stride,
                                                              const T* from,
                                                              std::int64_t from_stride) {
    Vector row[N];
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
      std::memcpy(&row[i], from + i * from_stride, kVectorBytes);
    }
    exchange<N / 2>(row);
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
      std::memcpy(to + i * to_stride, &row[i], kVectorBytes);
    }
  }
};

template <class T>
void transpose_elements(T* to,
                        std::int64_t to_stride,
                        const T* from,
                        std::int64_t from_stride,
                        std::int64_t rows,
                        std::int64_t columns) {
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t i = 0; i < rows; ++i) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
}

template <class T>
void transpose_of(T* to,
                  std::int64_t to_stride,
                  const T* from,
                  std::int64_t from_stride,
                  std::int64_t rows,
                  std::int64_t columns) {
  constexpr std::int64_t N = SquareBlock<T>::N;
  const bool registers = isa_level() == IsaLevel::avx512;
  for (std::int64_t i = 0; i < rows; i += N) {
    for (std::int64_t j = 0; j < columns; j += N) {
      T* const block = to + j * to_stride + i;
      const T* const source = from + i * from_stride + j;
      if (registers && rows - i >= N && columns - j >= N) {
        SquareBlock<T>::transpose(block, to_stride, source, from_stride);
      } else {
        transpose_elements(
            block, to_stride, source, from_stride, std::min(N, rows - i), std::min(N, columns - j));
      }
    }
  }
}

}  // namespace

void transpose_block(void* to,
                     std::int64_t to_stride,
                     const void* from,
                     std::int64_t from_stride,
                     std::int64_t rows,
                     std::int64_t columns,
                     std::int64_t element_bytes) {
  if (element_bytes == 2) {
    return transpose_of(static_cast<std::uint16_t*>(to),
                        to_stride,
                        static_cast<const std::uint16_t*>(from),
                        from_stride,
                        rows,
                        columns);
  }
  STRATA_ASSERT(element_bytes == 4);
  transpose_of(static_cast<std::uint32_t*>(to),
               to_stride,
               static_cast<const std::uint32_t*>(from),
               from_stride,
               rows,
               columns);
}

void transpose_matrix(void* to,
                      const void* from,
                      std::int64_t rows,
                      std::int64_t columns,
                      std::int64_t element_bytes) {
  // A strip of this many columns is read in whole cache lines and written in long rows.
  constexpr std::int64_t kStrip = 64;
  parallel_for(columns, kStrip, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; j += kStrip) {
      transpose_block(static_cast<std::byte*>(to) + j * rows * element_bytes,
                      rows,
                      static_cast<const std::byte*>(from) + j * element_bytes,
                      columns,
                      rows,
                      std::min(kStrip, end - j),
                      element_bytes);
    }
  });
}

}  // namespace strata::cpu
