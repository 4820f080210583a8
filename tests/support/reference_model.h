#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/batch.h"
#include "models/config.h"

namespace strata::tests {

/// Parameters by Hugging Face name, row-major.
using ReferenceParams = std::map<std::string, std::vector<double>>;

/// Logits (B, T, V) of a model without dropout: plain float64 loops, written from the formulas.
std::vector<double> reference_logits(const models::ModelConfig& config,
                                     const ReferenceParams& params,
                                     const MicroBatch& batch);

/// Sum over unmasked targets of -log softmax(logits)[target], nats.
double reference_loss_sum(const models::ModelConfig& config,
                          const ReferenceParams& params,
                          const MicroBatch& batch);

}  // namespace strata::tests
