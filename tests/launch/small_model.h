#pragma once
#include "models/config.h"

namespace strata::tests {

/// A GPT-2 of L blocks, C channels and two heads, without dropout.
inline models::ModelConfig small_gpt2(int L, int C) {
  models::ModelConfig config = models::preset("tiny-gpt2");
  config.L = L;
  config.C = C;
  config.H = config.K = 2;
  config.D = C / 2;
  config.F = 4 * C;
  config.dropout = 0.f;
  return config;
}

}  // namespace strata::tests
