#include "core/cpu/loss.h"

#include <algorithm>
#include <limits>

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/cpu/transpose.h"
#include "core/for_each.h"
#include "core/math.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Rows whose gradient is made before it is transposed: whole blocks of the transposition, and it
// is still in cache.
constexpr std::int64_t kRowBlock = 32;

/// One row of loss_gradient; inside a simd body. `to` may be `logits`.
template <class T>
inline void gradient_row(T* to,
                         const float* logits,
                         std::int64_t width,
                         std::int64_t first,
                         std::int64_t r,
                         const LossRows& rows,
                         float scale) {
  const std::int64_t target = rows.targets[r];
  if (target == kMasked) {
    return put(to, width, false, [](std::int64_t) { return 0.f; });
  }
  const float top = rows.top[r], log_sum = rows.sum[r];
  const auto softmax = [=](float logit) { return exp_(logit - top - log_sum); };
  put(to, width, false, [=](std::int64_t i) { return softmax(logits[i]) * scale; });
  if (target >= first && target < first + width) {
    store(to[target - first], (softmax(rows.target_logit[r]) - 1.f) * scale);
  }
}

}  // namespace

void start_loss(const LossRows& rows) {
  std::fill_n(rows.top, rows.count, kMinusInfinity);
  std::fill_n(rows.sum, rows.count, 0.f);
  std::fill_n(rows.target_logit, rows.count, 0.f);
}

void add_to_loss(const LossRows& rows, const Tensor& logits, std::int64_t first) {
  const std::int64_t width = logits.shape()[1];
  const float* const from = logits.data<float>();
  parallel_for(rows.count, 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t target = rows.targets[r];
        if (target == kMasked) {
          continue;
        }
        const float* const row = from + r * width;
        const float old = rows.top[r];
        const float top = lane_max(width, old, [=](std::int64_t i) { return row[i]; });
        const float sum = lane_sum(width, [=](std::int64_t i) { return exp_(row[i] - top); });
        rows.sum[r] = old == kMinusInfinity ? sum : fma_(rows.sum[r], exp_(old - top), sum);
        rows.top[r] = top;
        if (target >= first && target < first + width) {
          rows.target_logit[r] = row[target - first];
        }
      }
    });
  });
}

void finish_loss(const LossRows& rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    if (rows.targets[r] == kMasked) {
      rows.nats[r] = 0.0;
      continue;
    }
    rows.sum[r] = log_(rows.sum[r]);
    rows.nats[r] =
        static_cast<double>(rows.top[r] - rows.target_logit[r]) + static_cast<double>(rows.sum[r]);
  }
}

void loss_gradient(const Tensor& dlogits,
                   const Tensor& turned,
                   const Tensor& logits,
                   std::int64_t first,
                   const LossRows& rows,
                   float scale) {
  const std::int64_t width = logits.shape()[1], R = rows.count;
  const float* const from = logits.data<float>();
  visit_storage(dlogits.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = dlogits.data<T>();
    const auto block = [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t r = begin; r < end; ++r) {
          gradient_row(to + r * width, from + r * width, width, first, r, rows, scale);
        }
      });
      if (turned) {
        transpose_block(turned.data<T>() + begin,
                        R,
                        to + begin * width,
                        width,
                        end - begin,
                        width,
                        static_cast<std::int64_t>(sizeof(T)));
      }
    };
    parallel_for(R, kRowBlock, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; r += kRowBlock) {
        block(r, std::min(r + kRowBlock, end));
      }
    });
  });
}

void round_into(const GradSink& sink, const Tensor& values) {
  const bool add = sink.mode == Accumulate::add;
  const float* const from = values.data<float>();
  visit_storage(sink.tensor.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = sink.tensor.data<T>();
    parallel_for(values.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        put(to + begin, end - begin, add, [&](std::int64_t i) { return from[begin + i]; });
      });
    });
  });
}

}  // namespace strata::cpu
