#pragma once
#include "core/graph.h"

namespace strata::cpu {

/// nats[r] = log-sum-exp(logits[r]) - logits[r][targets[r]]; 0 where targets[r] is kMasked.
/// logits: (R, V) f32; targets: R indices in [0, V) or kMasked.
void cross_entropy_forward(double* nats, const Tensor& logits, const std::int32_t* targets);

/// The same, and dlogits[r] = scale * (softmax(logits[r]) - onehot), 0 in masked rows.
/// dlogits: (R, V) f32 or bf16; may be `logits` itself.
void cross_entropy_backward(double* nats,
                            const Tensor& dlogits,
                            const Tensor& logits,
                            const std::int32_t* targets,
                            float scale);

}  // namespace strata::cpu
