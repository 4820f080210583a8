#include "models/runner.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <ostream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/models/model_machine.h"
#include "tests/support/reference_model.h"
#include "tests/support/temp_dir.h"

namespace strata::models {
namespace {

using Use = BlockProgram::Use;
using tests::ReferenceParams;

/// Two rows of five tokens: one document and two documents, one masked target in each.
MicroBatch batch_of(std::int64_t index, std::int64_t V) {
  constexpr std::int64_t B = 2, T = 5;
  MicroBatch batch;
  for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
    *t = Tensor::zeros(DType::i32, {B, T});
  }
  batch.first_sample = index * B;
  for (std::int64_t n = 0; n < B * T; ++n) {
    const std::int64_t t = n % T, start = n / T == 1 && t >= 2 ? 2 : 0;
    batch.tokens.data<std::int32_t>()[n] = static_cast<std::int32_t>((3 * n + 5 * index + 1) % V);
    batch.targets.data<std::int32_t>()[n] =
        t == 3 ? kMasked : static_cast<std::int32_t>((7 * n + 2 * index) % V);
    batch.positions.data<std::int32_t>()[n] = static_cast<std::int32_t>(t - start);
    batch.documents.data<std::int32_t>()[n] = static_cast<std::int32_t>(start);
  }
  return batch;
}

std::vector<MicroBatch> batches_of(int count, std::int64_t V = 11) {
  std::vector<MicroBatch> batches;
  for (int k = 0; k < count; ++k) {
    batches.push_back(batch_of(k, V));
  }
  return batches;
}

ReferenceParams in_double(const Values& values) {
  ReferenceParams params;
  for (const auto& [name, v] : values) {
    params[name].assign(v.begin(), v.end());
  }
  return params;
}

struct Case {
  std::string name;
  ModelConfig config;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> cases() {
  std::vector<Case> all{{"gpt2_tied", tiny_config(Family::gpt2, true)},
                        {"gpt2_untied_no_bias", tiny_config(Family::gpt2, false)},
                        {"llama_untied", tiny_config(Family::llama, false)},
                        {"llama_tied_interleaved_wide_heads", tiny_config(Family::llama, true)}};
  all[1].config.bias = false;
  all[3].config.rope_style = RopeStyle::interleaved;
  all[3].config.D = 6;  // H * D other than C
  for (const Family family : {Family::gpt2, Family::llama}) {
    const std::string name = family == Family::gpt2 ? "gpt2" : "llama";
    all.push_back({name + "_stable_embedding", tiny_config(family, true)});
    all.back().config.stable_embedding = true;
    all.push_back({name + "_factors", tiny_config(family, false)});
    all.back().config.factor_rank = 5;
  }
  return all;
}

class Runner : public testing::TestWithParam<Case> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
  Values values_ = random_values(GetParam().config);
};

TEST_P(Runner, LogitsAndLossAreThoseOfTheReference) {
  const auto batches = batches_of(2);
  const ReferenceParams params = in_double(values_);
  const auto expected = tests::reference_logits(config(), params, batches[0]);
  const auto got = ModelMachine(config(), values_, batches, Use::logits).logits();
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], expected[i], 1e-5) << i;
  }
  const double loss = tests::reference_loss_sum(config(), params, batches[0]) +
                      tests::reference_loss_sum(config(), params, batches[1]);
  EXPECT_NEAR(ModelMachine(config(), values_, batches, Use::evaluate).evaluate(), loss, 1e-5);
  const StepResult trained =
      ModelMachine(config(), values_, batches, Use::train).train(Order::micro_batch_major);
  EXPECT_NEAR(trained.loss_sum, loss, 1e-5);
}

// Central differences of the float64 reference; every parameter, every third element, two
// micro-batches.
TEST_P(Runner, GradientsAreThoseOfTheReference) {
  const auto batches = batches_of(2);
  const StepResult result =
      ModelMachine(config(), values_, batches, Use::train).train(Order::micro_batch_major);
  const auto loss = [&](const ReferenceParams& p) {
    return tests::reference_loss_sum(config(), p, batches[0]) +
           tests::reference_loss_sum(config(), p, batches[1]);
  };
  ReferenceParams params = in_double(values_);
  constexpr double h = 1e-5, unmasked = 16;
  for (auto& [name, v] : params) {
    for (std::size_t i = 0; i < v.size(); i += 3) {
      const double kept = v[i];
      v[i] = kept + h;
      const double above = loss(params);
      v[i] = kept - h;
      const double below = loss(params);
      v[i] = kept;
      const double expected = (above - below) / (2 * h * unmasked);
      ASSERT_NEAR(result.grads.at(name)[i], expected, 2e-6 + 1e-5 * std::abs(expected))
          << name << '[' << i << ']';
    }
  }
}

TEST_P(Runner, OrderAndRecomputeNeverChangeABit) {
  ModelConfig with_dropout = config();
  with_dropout.dropout = 0.3f;
  const auto batches = batches_of(3);
  for (const ModelConfig& c : {config(), with_dropout}) {
    ModelMachine machine(c, values_, batches, Use::train);
    const StepResult reference = machine.train(Order::micro_batch_major);
    for (const auto& [name, grad] : reference.grads) {
      for (const float g : grad) {
        ASSERT_TRUE(std::isfinite(g)) << name;
      }
    }
    EXPECT_EQ(machine.train(Order::layer_major), reference);
    EXPECT_EQ(machine.train(Order::layer_major, {0, 1, 2}), reference);
    EXPECT_EQ(machine.train(Order::micro_batch_major, {2}), reference);
  }
}

// New bytes of the fake store are NaN: a value that is read and was neither saved nor redone shows.
TEST_P(Runner, RedoneActivationsGiveTheSameGradients) {
  using enum BlockProgram::Keep;
  const auto batches = batches_of(3);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const float dropout : {0.f, 0.3f}) {
      ModelConfig c = config();
      c.dropout = dropout;
      const auto machine = [&](std::vector<BlockProgram::Keep> keep) {
        return ModelMachine(c, values_, batches, Use::train, dtype, std::move(keep));
      };
      const StepResult reference = machine({}).train(Order::micro_batch_major);
      for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
        for (const BlockProgram::Keep keep : {products, before_mlp, attention}) {
          EXPECT_EQ(machine({keep, keep, keep, keep}).train(order), reference);
        }
        EXPECT_EQ(machine({all, before_mlp, attention, all}).train(order), reference);
        EXPECT_EQ(machine({all, products, all, products}).train(order, {2}), reference);
        EXPECT_EQ(machine({all, products, products, all}).train(order, {1, 2}), reference);
      }
    }
  }
}

/// Bytes by name of what a decoder block saves.
std::map<std::string, std::int64_t> saved_by(const ModelConfig& config,
                                             DType dtype,
                                             BlockProgram::Keep keep) {
  constexpr std::int64_t B = 2, T = 64;
  const auto blocks = build_blocks(config);
  const BlockProgram program(*blocks[1], B, T, config.C, dtype, Use::train, keep);
  std::map<std::string, std::int64_t> bytes;
  std::int64_t sum = 0;
  for (const BlockProgram::Slot& slot : program.slots()) {
    bytes[slot.name] += slot.size_bytes / (B * T);  // a token's
    sum += slot.size_bytes;
  }
  EXPECT_EQ(sum, program.saved_bytes());
  return bytes;
}

// Bytes a token, beside the block's input, which is the boundary: for Llama in bf16 the menu of 12h
// + 4kd + 6f + 4a + 8 for everything and 8h + 4kd + 4f + 4a + 8 without norms and products, less
// the 2h of the input.
TEST(Activations, SavedBytesAreTheFormulas) {
  using enum BlockProgram::Keep;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const float dropout : {0.f, 0.1f}) {
      const std::int64_t e = size_bytes(dtype), h = 64, f = 160, a = 8, kd = 16;
      ModelConfig c = tiny_config(Family::llama, false);
      c.C = h;
      c.H = a;
      c.D = h / a;
      c.K = 2;
      c.F = f;
      c.max_T = 64;
      c.dropout = dropout;
      const auto total = [&](BlockProgram::Keep keep) {
        std::int64_t sum = 0;
        for (const auto& [name, bytes] : saved_by(c, dtype, keep)) {
          sum += bytes;
        }
        return sum;
      };
      const std::int64_t statistics = 4 * a + 8;
      // Without dropout the norm behind attention makes the sum and the norm in one pass, and keeps
      // it.
      const std::int64_t stream = dropout > 0 ? h : 2 * h;
      EXPECT_EQ(total(all), e * (5 * h + 2 * kd + 3 * f) + statistics);
      EXPECT_EQ(total(products), e * (3 * h + 2 * kd + 2 * f) + statistics);
      EXPECT_EQ(total(before_mlp), e * (3 * h + 2 * kd) + statistics);
      EXPECT_EQ(total(attention), e * stream + statistics);
      c.family = Family::gpt2;
      c.K = a;
      // norm1, qkv, attended, middle, norm2, hidden, activated; two norms of two statistics.
      EXPECT_EQ(total(all), e * (7 * h + 2 * f) + 4 * a + 16);
      EXPECT_EQ(total(products), e * (5 * h + f) + 4 * a + 16);
      EXPECT_EQ(total(before_mlp), e * 5 * h + 4 * a + 16);
      EXPECT_EQ(total(attention), e * stream + 4 * a + 16);
      const auto kept = saved_by(c, dtype, products);
      for (const char* redone : {"norm1", "norm2", "activated"}) {
        EXPECT_FALSE(kept.contains(redone)) << redone;
      }
    }
  }
}

// A recompute ends where nothing more is saved: the last projection of a block is not among it.
TEST(Activations, RecomputeLeavesOutTheLastProjection) {
  const ModelConfig c = tiny_config(Family::gpt2, true);
  const auto blocks = build_blocks(c);
  constexpr std::int64_t B = 2, T = 8;
  const BlockProgram program(*blocks[1], B, T, c.C, DType::f32, Use::train);
  const double projection = 2.0 * B * T * static_cast<double>(c.C * c.F);
  const double sum = static_cast<double>(B * T * c.C);
  EXPECT_EQ(program.recompute_flops(), program.forward_flops() - projection - sum);
  EXPECT_EQ(program.redo_flops(), 0);
}

TEST_P(Runner, DropoutFollowsSeedAndStepAndIsOffOutsideTraining) {
  ModelConfig c = config();
  const auto batches = batches_of(1);
  const double plain = ModelMachine(c, values_, batches, Use::evaluate).evaluate();
  c.dropout = 0.3f;
  EXPECT_EQ(ModelMachine(c, values_, batches, Use::evaluate).evaluate(), plain);
  ModelMachine machine(c, values_, batches, Use::train);
  const double dropped = machine.train(Order::layer_major).loss_sum;
  EXPECT_NE(dropped, plain);
  machine.step = 2;
  EXPECT_NE(machine.train(Order::layer_major).loss_sum, dropped);
  machine.step = 1;
  machine.seed = 2;
  EXPECT_NE(machine.train(Order::layer_major).loss_sum, dropped);
}

TEST_P(Runner, Bf16StaysNearF32) {
  const auto batches = batches_of(2);
  const double exact = ModelMachine(config(), values_, batches, Use::evaluate).evaluate();
  ModelMachine machine(config(), values_, batches, Use::train, DType::bf16);
  const StepResult rounded = machine.train(Order::micro_batch_major);
  EXPECT_NEAR(rounded.loss_sum, exact, 0.02 * exact);
  EXPECT_NE(rounded.loss_sum, exact);
  EXPECT_EQ(machine.train(Order::layer_major, {0, 1, 2}), rounded);
}

INSTANTIATE_TEST_SUITE_P(Models, Runner, testing::ValuesIn(cases()), [](const auto& instance) {
  return instance.param.name;
});

TEST(RunnerPacks, SizesCoverWhatProgramsTouch) {
  const ModelConfig config = tiny_config(Family::gpt2, true);
  const auto blocks = build_blocks(config);
  const GraphRunner runner(blocks, {2, 5, config.C, DType::bf16, Use::train, 3, 5});
  const PackSizes sizes = runner.pack_sizes();
  EXPECT_EQ(runner.borrows(), (std::vector<Borrow>{{3, 0}}));
  const std::vector<std::int64_t> table{2 * 11 * 16, 2 * 8 * 16};
  EXPECT_EQ(sizes.at({PackClass::weights, 0}), pack_layout(table).size_bytes);
  EXPECT_TRUE(sizes.contains({PackClass::borrowed_grads, 3}));
  EXPECT_FALSE(sizes.contains({PackClass::borrowed_grads, 0}));
  EXPECT_TRUE(sizes.contains({PackClass::saved, 0, 3}));
  EXPECT_TRUE(sizes.contains({PackClass::boundary_grad, 3, 4}));
  EXPECT_FALSE(sizes.contains({PackClass::boundary, 0, 3}));
  EXPECT_FALSE(sizes.contains({PackClass::boundary, 1, 5}));
  for (const auto& [key, size] : sizes) {
    EXPECT_EQ(size % 4096, 0) << to_string(key);
  }
  EXPECT_EQ(&runner.block_program(1), &runner.block_program(2));
  EXPECT_NE(&runner.block_program(0), &runner.block_program(3));
}

// Published weights of karpathy/tinyllamas; numbers of an independent float64 forward pass.
TEST(Stories260K, LossAndLogitsAreThoseOfAnIndependentProgram) {
  const auto weights = tests::test_data("weights/stories260K/stories260K.bin");
  const auto check = tests::test_data("weights/stories260K/own_loss_check.json");
  if (weights.empty() || check.empty()) {
    GTEST_SKIP() << "weights/stories260K/stories260K.bin or own_loss_check.json is absent";
  }
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(check));
  const auto ids = expected["ids"].get<std::vector<std::int32_t>>();
  const auto T = static_cast<std::int64_t>(ids.size());
  MicroBatch batch;
  for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
    *t = Tensor::zeros(DType::i32, {1, T});
  }
  for (std::size_t t = 0; t < ids.size(); ++t) {
    batch.tokens.data<std::int32_t>()[t] = ids[t];
    batch.targets.data<std::int32_t>()[t] = t + 1 < ids.size() ? ids[t + 1] : kMasked;
    batch.positions.data<std::int32_t>()[t] = static_cast<std::int32_t>(t);
  }
  const Llama2c model = read_llama2c(weights);
  Values values;
  for (const auto& block : build_blocks(model.config)) {
    for (const ParamSpec& param : block->spec().params) {
      auto& to = values[param.info.name];
      to.resize(static_cast<std::size_t>(param.info.shape.numel()));
      model.source(param, 0, to);
    }
  }
  const std::span batches(&batch, 1);
  const double loss = ModelMachine(model.config, values, batches, Use::evaluate).evaluate();
  EXPECT_NEAR(
      loss / static_cast<double>(T - 1), expected["mean_nll_over_255_targets"].get<double>(), 1e-5);
  const auto logits = ModelMachine(model.config, values, batches, Use::logits).logits();
  const auto first = expected["logits_at_position_0_first_8"].get<std::vector<double>>();
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_NEAR(logits[i], first[i], 1e-4) << i;
  }
}

}  // namespace
}  // namespace strata::models
