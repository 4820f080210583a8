#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/batch.h"
#include "models/hf.h"

namespace strata::launch {

/// A model ready to give logits: weights and the inference program, no training state.
class InferenceEngine {
 public:
  /// Sequences of up to T tokens.
  InferenceEngine(const models::ModelConfig& model,
                  std::int64_t T,
                  const models::ParamSource& weights);
  ~InferenceEngine();
  /// Logits (V) of the position behind the last of `ids`; ids.size() <= T.
  std::span<const float> next(std::span<const std::int32_t> ids);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A model ready to be evaluated: the loss of micro-batches, no training state.
class EvaluationEngine {
 public:
  EvaluationEngine(const models::ModelConfig& model,
                   std::int64_t B,
                   std::int64_t T,
                   const models::ParamSource& weights);
  ~EvaluationEngine();
  /// Sum of the losses of one micro-batch, nats.
  double evaluate(const MicroBatch& batch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::launch
