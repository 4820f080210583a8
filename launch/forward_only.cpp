#include "launch/forward_only.h"

#include <algorithm>

#include "core/error.h"
#include "core/runtime.h"
#include "core/schedule.h"
#include "launch/weights.h"
#include "models/runner.h"
#include "offload/tiered_store.h"

namespace strata::launch {
namespace {

/// Weights and one forward-only program, f32.
class ForwardOnly {
 public:
  ForwardOnly(const models::ModelConfig& model,
              std::int64_t B,
              std::int64_t T,
              BlockProgram::Use use,
              const models::ParamSource& weights)
      : blocks_(models::build_blocks(model)),
        runner_(blocks_, {.B = B, .T = T, .C = model.C, .dtype = DType::f32, .use = use}),
        program_(make_program(use)),
        store_(make_plan(), {{Tier(), runtime(DeviceKind::cpu).memory_info().free_bytes}}, ledger_),
        executor_(program_, {.store = &store_, .blocks = &runner_}) {
    for (const PackKey key : program_.residents) {
      store_.create(key);
    }
    const WeightPlaces places = weight_places(blocks_, runner_);
    for (const auto& block : blocks_) {
      for_each_piece(block->spec(),
                     [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
                       weights(spec, begin, piece);
                       const WeightPlace& place = places.at(spec.info.name);
                       const Lease pack = store_.acquire({PackClass::weights, place.block});
                       write_weights(pack.bytes(), place, DType::f32, begin, piece);
                     });
    }
  }

  double run(const MicroBatch& batch) {
    StepScalars scalars;
    scalars.inputs.batches = {&batch, 1};
    scalars.inputs.loss_tokens = 1;
    executor_.run(scalars);
    return scalars.loss_sums.front();
  }
  std::span<std::byte> logits() {
    return store_.acquire({PackClass::boundary, program_.blocks, 0}).bytes();
  }

 private:
  Program make_program(BlockProgram::Use use) const {
    const StepShape shape{.blocks = static_cast<int>(blocks_.size()),
                          .micro_batches = 1,
                          .borrows = runner_.borrows()};
    if (use == BlockProgram::Use::logits) {
      return make_inference(shape);
    }
    Program program = make_evaluation(shape);
    std::erase_if(program.residents, [](PackKey k) { return k.cls == PackClass::state; });
    return program;
  }

  offload::Plan make_plan() {
    Program* const programs[] = {&program_};
    return offload::make_plan(programs, runner_.pack_sizes());
  }

  std::vector<std::unique_ptr<Block>> blocks_;
  models::GraphRunner runner_;
  Program program_;
  Ledger ledger_;
  offload::TieredStore store_;
  Executor executor_;
};

}  // namespace

struct InferenceEngine::Impl {
  ForwardOnly forward;
  std::int64_t T, V;
  MicroBatch batch;
};

InferenceEngine::InferenceEngine(const models::ModelConfig& model,
                                 std::int64_t T,
                                 const models::ParamSource& weights)
    : impl_(new Impl{{model, 1, T, BlockProgram::Use::logits, weights}, T, model.V, {}}) {
  MicroBatch& batch = impl_->batch;
  for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
    *t = Tensor::zeros(DType::i32, {1, T});
  }
  std::fill_n(batch.targets.data<std::int32_t>(), T, kMasked);
  for (std::int64_t t = 0; t < T; ++t) {
    batch.positions.data<std::int32_t>()[t] = static_cast<std::int32_t>(t);
  }
}
InferenceEngine::~InferenceEngine() = default;

std::span<const float> InferenceEngine::next(std::span<const std::int32_t> ids) {
  STRATA_ASSERT(!ids.empty() && static_cast<std::int64_t>(ids.size()) <= impl_->T);
  std::copy(ids.begin(), ids.end(), impl_->batch.tokens.data<std::int32_t>());
  impl_->forward.run(impl_->batch);
  const auto* logits = reinterpret_cast<const float*>(impl_->forward.logits().data());
  return {logits + (static_cast<std::int64_t>(ids.size()) - 1) * impl_->V,
          static_cast<std::size_t>(impl_->V)};
}

struct EvaluationEngine::Impl {
  ForwardOnly forward;
};

EvaluationEngine::EvaluationEngine(const models::ModelConfig& model,
                                   std::int64_t B,
                                   std::int64_t T,
                                   const models::ParamSource& weights)
    : impl_(new Impl{{model, B, T, BlockProgram::Use::evaluate, weights}}) {}
EvaluationEngine::~EvaluationEngine() = default;
double EvaluationEngine::evaluate(const MicroBatch& batch) {
  return impl_->forward.run(batch);
}

}  // namespace strata::launch
