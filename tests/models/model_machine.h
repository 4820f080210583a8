#pragma once
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

#include "core/schedule.h"
#include "models/runner.h"
#include "tests/models/tiny_models.h"
#include "tests/support/fake_machine.h"

namespace strata::models {

/// What a training step left behind: every parameter's gradient, tied parts added, and the loss.
struct StepResult {
  Values grads;
  double loss_sum = 0;
  friend bool operator==(const StepResult&, const StepResult&) = default;
};

/// One rank without optimizer: adds borrowed gradients and keeps what `norm` sees.
class GradientCollector final : public Collectives, public Updater {
 public:
  GradientCollector(const Blocks& blocks, StepResult& result) : blocks_(blocks), result_(result) {}

  void gather(const Instruction&, const Held&) override {}
  void merge(const Instruction&, const Held&) override {}
  void reduce(const Instruction& i, const Held& packs) override {
    const PackKey last{PackClass::borrowed_grads, static_cast<int>(blocks_.size()) - 1};
    if (packs.contains(last)) {  // the head borrows the first parameter of the embedding
      const auto to = floats(packs[{PackClass::grads, i.block}]);
      const std::int64_t n = blocks_.front()->spec().params[0].info.shape.numel();
      for (std::size_t e = 0; e < static_cast<std::size_t>(n); ++e) {
        to[e] += floats(packs[last])[e];
      }
    }
  }
  void decide(StepScalars&) override {}
  void decide_block(int, StepScalars&) override {}
  void fold_stats(StepScalars&) override {}
  void publish(const Instruction&, const Held&) override {}
  void send(const Instruction&, const Held&) override {}
  void recv(const Instruction&, const Held&) override {}

  void norm(const Instruction& i, const Held& packs, StepScalars&) override {
    const auto& params = blocks_[static_cast<std::size_t>(i.block)]->spec().params;
    std::vector<std::int64_t> bytes;
    for (const ParamSpec& param : params) {
      bytes.push_back(4 * param.info.shape.numel());
    }
    const PackLayout layout = pack_layout(bytes);
    const auto from = floats(packs[{PackClass::grads, i.block}]);
    for (std::size_t p = 0; p < params.size(); ++p) {
      const auto grad = from.subspan(static_cast<std::size_t>(layout.offset[p] / 4),
                                     static_cast<std::size_t>(bytes[p] / 4));
      result_.grads[params[p].info.name].assign(grad.begin(), grad.end());
    }
  }
  void stats(const Instruction&, const Held&, StepScalars&) override {}
  void update(const Instruction&, const Held&, StepScalars&) override {}

 private:
  static std::span<float> floats(std::span<std::byte> bytes) {
    return {reinterpret_cast<float*>(bytes.data()), bytes.size() / 4};
  }
  const Blocks& blocks_;
  StepResult& result_;
};

/// A model with given weights in fake packs; new bytes are NaN, so that reading before writing
/// shows.
class ModelMachine {
 public:
  ModelMachine(const ModelConfig& config,
               const Values& values,
               std::span<const MicroBatch> batches,
               BlockProgram::Use use,
               DType dtype = DType::f32,
               std::vector<BlockProgram::Keep> keep = {},
               ActivationCodec codec = ActivationCodec::exact)
      : config_(config), values_(values), batches_(batches), dtype_(dtype) {
    const Shape& shape = batches.front().tokens.shape();
    runner_ = std::make_unique<GraphRunner>(blocks_,
                                            RunnerConfig{shape[0],
                                                         shape[1],
                                                         config.C,
                                                         dtype,
                                                         use,
                                                         0,
                                                         static_cast<int>(batches.size()),
                                                         std::move(keep),
                                                         codec});
    shape_ = {.blocks = static_cast<int>(blocks_.size()),
              .micro_batches = static_cast<int>(batches.size()),
              .borrows = runner_->borrows()};
  }

  StepResult train(Order order, std::vector<int> recomputed = {}) {
    shape_.recomputed = std::move(recomputed);
    StepResult result;
    run(make_step(shape_, order, UpdateMode::after_norm), &result);
    return result;
  }
  double evaluate() {
    StepResult result;
    run(make_evaluation(shape_), &result);
    return result.loss_sum;
  }
  /// (B, T, V) of the first micro-batch.
  std::vector<float> logits() {
    StepResult unused;
    return run(make_inference(shape_), &unused);
  }
  const GraphRunner& runner() const { return *runner_; }
  std::int64_t step = 1;
  std::uint64_t seed = 1;

 private:
  std::vector<float> run(Program program, StepResult* result) {
    PackSizes sizes = runner_->pack_sizes();
    for (int b = 0; b < shape_.blocks; ++b) {
      sizes[{PackClass::state, b}] = 4;
    }
    tests::FakeStore store(std::move(sizes));
    for (const PackKey key : program.residents) {
      store.create(key);
      if (key.cls == PackClass::weights) {
        load(store, key);
      }
    }
    GradientCollector collector(blocks_, *result);
    Executor executor(std::move(program), {&store, runner_.get(), &collector, &collector, nullptr});
    StepScalars scalars;
    scalars.inputs = {{step, seed, 0.0, 1.f}, batches_, tokens(), 0.0};
    executor.run(scalars);
    for (const double loss : scalars.loss_sums) {
      result->loss_sum += loss;
    }
    if (executor.program().kind != ProgramKind::inference) {
      return {};
    }
    const auto all = store.floats({PackClass::boundary, shape_.blocks, 0});
    const auto n = static_cast<std::size_t>(batches_[0].tokens.numel() * config_.V);
    return {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n)};
  }

  void load(tests::FakeStore& store, PackKey key) {
    const Lease lease = store.acquire(key);
    const auto& params = blocks_[static_cast<std::size_t>(key.block)]->spec().params;
    for (std::size_t p = 0; p < params.size(); ++p) {
      std::byte* to = lease.bytes().data() + runner_->weights_layout(key.block).offset[p];
      const auto& from = values_.at(params[p].info.name);
      for (std::size_t i = 0; i < from.size(); ++i) {
        if (dtype_ == DType::f32) {
          reinterpret_cast<float*>(to)[i] = from[i];
        } else {
          reinterpret_cast<bf16*>(to)[i] = to_bf16(from[i]);
        }
      }
    }
  }

  std::int64_t tokens() const {
    std::int64_t n = 0;
    for (const MicroBatch& batch : batches_) {
      for (std::int64_t t = 0; t < batch.targets.numel(); ++t) {
        n += batch.targets.data<std::int32_t>()[t] != kMasked;
      }
    }
    return n;
  }

  ModelConfig config_;
  const Values& values_;
  std::span<const MicroBatch> batches_;
  DType dtype_;
  Blocks blocks_ = build_blocks(config_);
  std::unique_ptr<GraphRunner> runner_;
  StepShape shape_;
};

}  // namespace strata::models
