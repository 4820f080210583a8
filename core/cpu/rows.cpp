#include "core/cpu/rows.h"

#include <algorithm>

#include "core/cpu/lanes.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/parallel_for.h"

namespace strata::cpu {

void fold_partials(const GradSink& sink,
                   const float* partials,
                   std::int64_t chunks,
                   std::int64_t stride,
                   std::int64_t n) {
  constexpr std::int64_t kBlock = 256;
  float* to = sink.tensor.data<float>();
  const bool add = sink.mode == Accumulate::add;
  parallel_for(n, kBlock, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t at = begin; at < end; at += kBlock) {
        const std::int64_t width = std::min(kBlock, end - at);
        float sum[kBlock] = {};
        for (std::int64_t c = 0; c < chunks; ++c) {
          const float* row = partials + c * stride + at;
#pragma omp simd
          for (std::int64_t i = 0; i < width; ++i) {
            sum[i] += row[i];
          }
        }
        put(to + at, width, add, [&](std::int64_t i) { return sum[i]; });
      }
    });
  });
}

std::int64_t sum_rows_scratch_bytes(std::int64_t rows, std::int64_t C) {
  return aligned_bytes(row_chunks(rows) * C * size_bytes(DType::f32));
}

void sum_rows(const GradSink& sink, const Tensor& dy, std::span<std::byte> scratch) {
  const std::int64_t C = dy.shape().back(), rows = dy.numel() / C, chunks = row_chunks(rows);
  float* const partials = Scratch(scratch).array<float>(chunks * C);
  visit_storage(dy.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T* const from = dy.data<T>();
    parallel_for(chunks, 1, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t c = begin; c < end; ++c) {
          float* const sum = partials + c * C;
          for (std::int64_t r = c * kRowChunk; r < std::min((c + 1) * kRowChunk, rows); ++r) {
            const T* const row = from + r * C;
            put(sum, C, r > c * kRowChunk, [&](std::int64_t i) { return load(row[i]); });
          }
        }
      });
    });
  });
  fold_partials(sink, partials, chunks, C, C);
}

void pass_gradient(const GradSink& sink, const Tensor& dy) {
  const bool add = sink.mode == Accumulate::add;
  visit_storage(dy.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = sink.tensor.data<T>();
    const T* const from = dy.data<T>();
    parallel_for(dy.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        put(to + begin, end - begin, add, [&](std::int64_t i) { return load(from[begin + i]); });
      });
    });
  });
}

}  // namespace strata::cpu
