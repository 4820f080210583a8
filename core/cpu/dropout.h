#pragma once
#include <cstdint>

#include "core/graph.h"
#include "core/philox.h"

namespace strata::cpu {

/// The mask of one site: a pure function of (key, global sample, place in the sequence, channel).
struct Dropout {
  float rate = 0.f;  // 0: nothing is dropped
  RandomKey key;
  std::int64_t first_sample = 0;  // global sample of row 0
  std::int64_t T = 1;             // tokens of a row
};

/// y = x + dropped branch; x may be absent. All (B, T, C).
void dropout_forward(const Tensor& y, const Tensor& x, const Tensor& branch, const Dropout& drop);
/// dbranch = dy under the same mask.
void dropout_backward(const GradSink& dbranch, const Tensor& dy, const Dropout& drop);

}  // namespace strata::cpu
