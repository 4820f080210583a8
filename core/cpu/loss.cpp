#include "core/cpu/loss.h"

#include <limits>

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/math.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// Largest logit and log of the sum of e^(logit - largest).
struct LogSumExp {
  float top, log_sum;
};

inline LogSumExp log_sum_exp(const float* row, std::int64_t V) {
  const float top = lane_max(V, kMinusInfinity, [=](std::int64_t i) { return row[i]; });
  const float sum = lane_sum(V, [=](std::int64_t i) { return exp_(row[i] - top); });
  return {top, log_(sum)};
}

inline double nats_of(const LogSumExp& l, float target_logit) {
  return static_cast<double>(l.top - target_logit) + static_cast<double>(l.log_sum);
}

}  // namespace

void cross_entropy_forward(double* nats, const Tensor& logits, const std::int32_t* targets) {
  const std::int64_t rows = logits.shape()[0], V = logits.shape()[1];
  const float* const from = logits.data<float>();
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t r = begin; r < end; ++r) {
        const float* const row = from + r * V;
        nats[r] = targets[r] == kMasked ? 0.0 : nats_of(log_sum_exp(row, V), row[targets[r]]);
      }
    });
  });
}

void cross_entropy_backward(double* nats,
                            const Tensor& dlogits,
                            const Tensor& logits,
                            const std::int32_t* targets,
                            float scale) {
  const std::int64_t rows = logits.shape()[0], V = logits.shape()[1];
  const float* const from = logits.data<float>();
  visit_storage(dlogits.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = dlogits.data<T>();
    parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t r = begin; r < end; ++r) {
          const float* const row = from + r * V;
          if (targets[r] == kMasked) {
            nats[r] = 0.0;
            put(to + r * V, V, false, [](std::int64_t) { return 0.f; });
            continue;
          }
          const LogSumExp l = log_sum_exp(row, V);
          const float target_logit = row[targets[r]];
          const auto softmax = [=](float logit) { return exp_(logit - l.top - l.log_sum); };
          nats[r] = nats_of(l, target_logit);
          put(to + r * V, V, false, [=](std::int64_t i) { return softmax(row[i]) * scale; });
          store(to[r * V + targets[r]], (softmax(target_logit) - 1.f) * scale);
        }
      });
    });
  });
}

}  // namespace strata::cpu
