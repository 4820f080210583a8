#pragma once
#include <cstdint>
#include <span>

#include "core/graph.h"

namespace strata::cpu {

/// Queries of a panel, which share a pass over the keys, and keys of a tile. The second is a
/// numeric setting: it fixes how a softmax sees its keys.
inline constexpr std::int64_t kAttentionPanel = 48, kAttentionKeys = 192;

/// B sequences of T tokens, H query heads and K key heads of D channels. `slices`: how many units
/// of work have scratch at the same time; it never changes a bit.
struct AttentionDims {
  std::int64_t B, T, H, K, D;
  std::int64_t slices;
};

std::int64_t attention_forward_scratch_bytes(const AttentionDims& dims);
std::int64_t attention_backward_scratch_bytes(const AttentionDims& dims);

// q, y: (B, T, H * D); k, v: (B, T, K * D); lse: (B, H, T) f32; documents: (B, T) i32. All but lse
// and documents, and the gradients, may be columns of wider tensors: only their last axis is dense.
void attention_forward(const Tensor& y,
                       const Tensor& lse,
                       const Tensor& q,
                       const Tensor& k,
                       const Tensor& v,
                       const Tensor& documents,
                       const AttentionDims& dims,
                       std::span<std::byte> scratch);

struct AttentionSaved {
  const Tensor &q, &k, &v, &y, &lse;
};
void attention_backward(const GradSink& dq,
                        const GradSink& dk,
                        const GradSink& dv,
                        const Tensor& dy,
                        const AttentionSaved& saved,
                        const Tensor& documents,
                        const AttentionDims& dims,
                        std::span<std::byte> scratch);

}  // namespace strata::cpu
