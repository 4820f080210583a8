#include "core/cpu/embedding.h"

#include <algorithm>

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kForwardRows = 16;
// Threads share the table by channels, so that each adds all tokens in order: one cache line.
constexpr std::int64_t kBackwardChannels = 16;

void fill_zero(const Tensor& t) {
  float* const to = t.data<float>();
  parallel_for(t.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
    std::fill(to + begin, to + end, 0.f);
  });
}

}  // namespace

void embedding_forward(const Tensor& y,
                       const Tensor& table,
                       const Tensor& positions_table,
                       const Tensor& tokens,
                       const Tensor& positions) {
  const std::int64_t C = y.shape().back();
  const std::int32_t* const token = tokens.data<std::int32_t>();
  visit_storage(y.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = y.data<T>();
    const T* const rows = table.data<T>();
    const T* const position_rows = positions_table ? positions_table.data<T>() : nullptr;
    const std::int32_t* const position = positions_table ? positions.data<std::int32_t>() : nullptr;
    parallel_for(tokens.numel(), kForwardRows, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t i = begin; i < end; ++i) {
          const T* const row = rows + token[i] * C;
          if (position_rows == nullptr) {
            std::copy(row, row + C, to + i * C);
            continue;
          }
          const T* const shift = position_rows + position[i] * C;
          put(to + i * C, C, false, [=](std::int64_t c) { return load(row[c]) + load(shift[c]); });
        }
      });
    });
  });
}

void add_rows(const Tensor& y, const Tensor& x, const Tensor& table, const Tensor& indices) {
  const std::int64_t C = y.shape().back();
  const std::int32_t* const index = indices.data<std::int32_t>();
  visit_storage(y.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = y.data<T>();
    const T* const from = x.data<T>();
    const T* const rows = table.data<T>();
    parallel_for(indices.numel(), kForwardRows, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t i = begin; i < end; ++i) {
          const T* const row = from + i * C;
          const T* const shift = rows + index[i] * C;
          put(to + i * C, C, false, [=](std::int64_t c) { return load(row[c]) + load(shift[c]); });
        }
      });
    });
  });
}

void embedding_backward(const GradSink& sink, const Tensor& dy, const Tensor& indices) {
  const std::int64_t C = dy.shape().back(), n = indices.numel();
  const std::int32_t* const index = indices.data<std::int32_t>();
  float* const to = sink.tensor.data<float>();
  if (sink.mode == Accumulate::overwrite) {
    fill_zero(sink.tensor);
  }
  visit_storage(dy.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T* const from = dy.data<T>();
    parallel_for(C, kBackwardChannels, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t i = 0; i < n; ++i) {
          const T* const row = from + i * C + begin;
          put(to + index[i] * C + begin, end - begin, true, [=](std::int64_t c) {
            return load(row[c]);
          });
        }
      });
    });
  });
}

}  // namespace strata::cpu
