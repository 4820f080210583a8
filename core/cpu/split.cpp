#include <algorithm>

#include "core/cpu/attention.h"
#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {
constexpr std::int64_t kRows = 16;
}  // namespace

void split_forward(std::span<const Tensor> out, const Tensor& x) {
  const std::int64_t C = x.shape().back();
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T* const from = x.data<T>();
    parallel_for(x.numel() / C, kRows, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t first = 0;
      for (const Tensor& part : out) {
        const std::int64_t width = part.shape().back();
        T* const to = part.data<T>();
        for (std::int64_t r = begin; r < end; ++r) {
          std::copy_n(from + r * C + first, width, to + r * width);
        }
        first += width;
      }
    });
  });
}

void split_backward(const GradSink& dx, std::span<const Tensor> grad_out) {
  const std::int64_t C = dx.tensor.shape().back();
  const bool add = dx.mode == Accumulate::add;
  visit_storage(dx.tensor.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = dx.tensor.data<T>();
    parallel_for(dx.tensor.numel() / C, kRows, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t first = 0;
      for (const Tensor& part : grad_out) {
        const std::int64_t width = part.shape().back();
        const T* const from = part.data<T>();
        simd([&] {
          for (std::int64_t r = begin; r < end; ++r) {
            const T* const row = from + r * width;
            put(to + r * C + first, width, add, [=](std::int64_t i) { return load(row[i]); });
          }
        });
        first += width;
      }
    });
  });
}

}  // namespace strata::cpu
