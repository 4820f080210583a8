// Activations that are kept in codes: what they take, that nothing but the codec changes a bit, and
// how far gradients are from exact ones.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "tests/models/model_machine.h"

namespace strata::models {
namespace {

using Use = BlockProgram::Use;
using enum ActivationCodec;
constexpr ActivationCodec kLossy[] = {fp8, int8, int4};

/// Wide enough for several groups a value.
ModelConfig config_of(Family family) {
  ModelConfig c = tiny_config(family, true);
  c.C = 64;
  c.H = 4;
  c.K = family == Family::gpt2 ? 4 : 2;
  c.D = 16;
  c.F = 160;
  c.max_T = 64;
  return c;
}

/// Two sequences of 32 tokens each.
std::vector<MicroBatch> batches_of(int count) {
  constexpr std::int64_t B = 2, T = 32;
  std::vector<MicroBatch> batches(static_cast<std::size_t>(count));
  std::uint64_t drawn = 0;
  for (MicroBatch& batch : batches) {
    batch.first_sample = B * (&batch - batches.data());
    for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
      *t = Tensor::zeros(DType::i32, {B, T});
    }
    for (std::int64_t i = 0; i < B * T; ++i) {
      const auto words = RandomKey{1, RandomUse::sampling}.words(drawn++);
      batch.tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[0] % 11);
      batch.targets.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[1] % 11);
      batch.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % T);
    }
  }
  return batches;
}

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// The values of the table in offload/README.md, each in its codes; what exponentials are taken of
// and statistics as they were.
TEST(CodedActivations, A21SavedBytesAreTheFormulas) {
  using enum BlockProgram::Keep;
  constexpr std::int64_t B = 2, T = 64;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Family family : {Family::gpt2, Family::llama}) {
      const ModelConfig c = config_of(family);
      const auto blocks = build_blocks(c);
      for (const BlockProgram::Keep keep : {all, products, before_mlp, attention}) {
        const auto program = [&](ActivationCodec codec) {
          return BlockProgram(*blocks[1], B, T, c.C, dtype, Use::train, keep, {}, codec);
        };
        const BlockProgram exactly = program(exact);
        EXPECT_EQ(exactly.coded_numel(), 0);
        for (const ActivationCodec codec : kLossy) {
          const BlockProgram coded = program(codec);
          const auto was = exactly.slots(), is = coded.slots();
          ASSERT_EQ(is.size(), was.size());
          std::int64_t sum = 0, statistics = 0, numel = 0;
          for (std::size_t s = 0; s < is.size(); ++s) {
            EXPECT_EQ(is[s].name, was[s].name);
            const bool exponent = was[s].name == "qkv" || was[s].name.ends_with("_rotated");
            const bool statistic = was[s].name.find('.') != std::string::npos;
            const std::int64_t elements = was[s].size_bytes / size_bytes(dtype);
            EXPECT_EQ(
                is[s].size_bytes,
                exponent || statistic ? was[s].size_bytes : aligned(coded_bytes(codec, elements)))
                << is[s].name;
            statistics += statistic ? was[s].size_bytes : 0;
            numel += exponent || statistic ? 0 : elements;
            sum += is[s].size_bytes;
          }
          const std::int64_t norms = family == Family::gpt2 ? 16 : 8;
          EXPECT_EQ(statistics, B * T * (4 * c.H + norms));
          EXPECT_EQ(sum, coded.saved_bytes());
          EXPECT_EQ(numel, coded.coded_numel());
          EXPECT_GT(numel, 0);
        }
      }
    }
  }
}

class Coded : public testing::TestWithParam<std::tuple<Family, DType>> {
 protected:
  /// One at a time: its batches are ours.
  ModelMachine machine(ActivationCodec codec,
                       std::vector<BlockProgram::Keep> keep = {},
                       std::int64_t first_sample = 0) {
    batches_ = batches_of(3);
    for (MicroBatch& batch : batches_) {
      batch.first_sample += first_sample;
    }
    return ModelMachine(config_, values_, batches_, Use::train, dtype_, std::move(keep), codec);
  }
  StepResult step(ActivationCodec codec, std::vector<BlockProgram::Keep> keep = {}) {
    return machine(codec, std::move(keep)).train(Order::micro_batch_major);
  }

  ModelConfig config_ = config_of(std::get<0>(GetParam()));
  DType dtype_ = std::get<1>(GetParam());
  Values values_ = random_values(config_);
  std::vector<MicroBatch> batches_;
};

TEST_P(Coded, A21OrderThreadsAndRecomputedBlocksChangeNoBit) {
  using enum BlockProgram::Keep;
  config_.dropout = 0.3f;
  const int threads = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  for (const ActivationCodec codec : kLossy) {
    for (const BlockProgram::Keep keep : {all, products, before_mlp, attention}) {
      const std::vector<BlockProgram::Keep> kept(4, keep);
      const StepResult reference = step(codec, kept);
      EXPECT_EQ(machine(codec, kept).train(Order::layer_major), reference);
      EXPECT_EQ(machine(codec, kept).train(Order::micro_batch_major, {1, 2}), reference);
      EXPECT_EQ(machine(codec, kept).train(Order::layer_major, {2}), reference);
      for (const int team : {1, 2, 3}) {
        set_thread_count(team);
        EXPECT_EQ(step(codec, kept), reference);
      }
      set_thread_count(threads);
      if (dtype_ == DType::f32) {  // products of bf16 have bits of their own
        cpu::force_isa_level(std::min(best, cpu::IsaLevel::avx2));
      }
      EXPECT_EQ(step(codec, kept), reference);
      cpu::force_isa_level(best);
    }
  }
}

// Forward computes with exact values, and so does the last block's backward.
TEST_P(Coded, A21LossesAreExactAndGradientsNear) {
  using enum BlockProgram::Keep;
  const std::map<ActivationCodec, double> near = {{fp8, 0.15}, {int8, 0.05}, {int4, 0.8}};
  for (const BlockProgram::Keep keep : {all, products, before_mlp, attention}) {
    const StepResult exactly = step(exact);
    for (const ActivationCodec codec : kLossy) {
      const StepResult got = step(codec, std::vector<BlockProgram::Keep>(4, keep));
      EXPECT_EQ(got.loss_sum, exactly.loss_sum);
      double error = 0, size = 0;
      for (const auto& [name, grad] : exactly.grads) {
        for (std::size_t i = 0; i < grad.size(); ++i) {
          error += std::pow(got.grads.at(name)[i] - grad[i], 2);
          size += std::pow(grad[i], 2);
        }
      }
      const double relative = std::sqrt(error / size);
      RecordProperty(std::string(to_string(codec)), std::to_string(relative));
      EXPECT_LT(relative, near.at(codec)) << to_string(codec);
      EXPECT_GT(relative, near.at(codec) / 100) << to_string(codec) << " changes gradients";
    }
  }
}

// The numbers that round four bits follow seed, step, block and sample; the other codecs have none.
TEST_P(Coded, A21FourBitsFollowSeedStepAndSample) {
  const StepResult reference = step(int4);
  EXPECT_EQ(step(int4), reference);
  ModelMachine other = machine(int4);
  other.step = 2;
  EXPECT_NE(other.train(Order::micro_batch_major), reference);
  other.step = 1;
  EXPECT_EQ(other.train(Order::micro_batch_major), reference);
  other.seed = 2;
  EXPECT_NE(other.train(Order::micro_batch_major), reference);
  EXPECT_NE(machine(int4, {}, 7).train(Order::micro_batch_major), reference);
  EXPECT_EQ(machine(fp8, {}, 7).train(Order::micro_batch_major), step(fp8));
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Coded,
                         testing::Combine(testing::Values(Family::gpt2, Family::llama),
                                          testing::Values(DType::f32, DType::bf16)),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param) == Family::gpt2 ? "gpt2"
                                                                                       : "llama") +
                                  "_" + std::string(to_string(std::get<1>(param.param)));
                         });

}  // namespace
}  // namespace strata::models
