#pragma once
#include <cstdint>

#include "core/graph.h"

namespace strata::cpu {

/// What is known of R rows of logits whose columns come in chunks, and of their targets: indices in
/// [0, V) or kMasked.
struct LossRows {
  std::int64_t count = 0;
  const std::int32_t* targets = nullptr;
  float* top = nullptr;  // largest logit so far
  float* sum = nullptr;  // of e^(logit - top) so far; after finish its logarithm
  float* target_logit = nullptr;
  double* nats = nullptr;  // after finish: log-sum-exp - target's logit; 0 in masked rows
};

/// Nothing is known yet.
void start_loss(const LossRows& rows);
/// logits: columns [first, first + width) of the rows, (R, width) f32.
void add_to_loss(const LossRows& rows, const Tensor& logits, std::int64_t first);
void finish_loss(const LossRows& rows);

/// dlogits (R, width) = scale * (softmax - onehot), f32 or bf16, 0 in masked rows, and `turned`
/// (width, R) the same transposed, if it is there. dlogits may be `logits` itself. After finish.
void loss_gradient(const Tensor& dlogits,
                   const Tensor& turned,
                   const Tensor& logits,
                   std::int64_t first,
                   const LossRows& rows,
                   float scale);

/// sink = f32 values, rounded to the sink's dtype.
void round_into(const GradSink& sink, const Tensor& values);

}  // namespace strata::cpu
