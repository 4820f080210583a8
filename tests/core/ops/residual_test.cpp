#include "core/ops/residual.h"

#include <cmath>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/philox.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

constexpr float kRate = 0.3f;

OpCase residual_case(std::int64_t B, std::int64_t T, std::int64_t C, float rate, bool training) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.training = training;
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, C});
    residual_dropout(graph, x, graph.add_input({B, T, C}), rate);
  };
  op.reference = sum_reference();
  return op;
}

OpCase dropout_case(std::int64_t B, std::int64_t T, std::int64_t C, float rate) {
  OpCase op = residual_case(B, T, C, rate, true);
  op.record = [=](Graph& graph) { dropout(graph, graph.add_input({B, T, C}), rate); };
  return op;
}

/// The mask as the contract states it, a word at a time.
double keep_factor(const MicroBatch& batch, std::int64_t i, std::int64_t T, std::int64_t C) {
  const RandomKey key{7, RandomUse::dropout, 5, 2 * 256};  // the seed, step and block of run_op
  const std::int64_t row = batch.first_sample * T + i / C, c = i % C;
  const auto words = key.words(static_cast<std::uint64_t>(row * ((C + 3) / 4) + c / 4));
  return uniform(words[static_cast<std::size_t>(c % 4)]) < kRate ? 0.0 : 1.0 / (1.0 - kRate);
}

Reference masked_reference(std::int64_t T, std::int64_t C) {
  return [=](const Arrays& in, const MicroBatch& batch) {
    Array y = in.back();
    for (std::size_t i = 0; i < y.size(); ++i) {
      y[i] *= keep_factor(batch, static_cast<std::int64_t>(i), T, C);
      y[i] += in.size() > 1 ? in[0][i] : 0.0;
    }
    return Arrays{y};
  };
}

TEST(ResidualDropout, IsAPlainSumInEvaluationAndAtRateZero) {
  expect_op_matches_reference(residual_case(3, 13, 17, kRate, false));
  expect_op_matches_reference(residual_case(3, 13, 17, 0.f, true));
  expect_op_matches_reference(residual_case(1, 1, 1, 0.f, true));
}

TEST(ResidualDropout, DropsTheSameElementsForwardAndBackward) {
  for (const std::int64_t C : {std::int64_t{17}, std::int64_t{259}}) {
    OpCase op = residual_case(2, 5, C, kRate, true);
    op.reference = masked_reference(5, C);
    expect_op_matches_reference(op);
  }
}

TEST(Dropout, DropsTheSameElementsForwardAndBackward) {
  OpCase op = dropout_case(3, 13, 17, kRate);
  op.reference = masked_reference(13, 17);
  expect_op_matches_reference(op);
  op = dropout_case(3, 13, 17, 0.f);
  expect_op_matches_reference(op);
}

TEST(Dropout, KeepsTheShareItPromises) {
  constexpr std::int64_t kCount = 4 * 64 * 101;
  const OpOutcome outcome = run_op(dropout_case(4, 64, 101, kRate));
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < kCount; ++i) {
    kept += outcome.out[0].data<float>()[i] != 0.f ? 1 : 0;
  }
  const double share = static_cast<double>(kept) / kCount;
  EXPECT_NEAR(share, 1.0 - kRate, 4 * std::sqrt(0.21 / kCount));
}

TEST(Dropout, DoesNotDependOnHowSamplesFallIntoMicroBatches) {
  constexpr std::int64_t T = 5, C = 17, kRow = T * C;
  const auto mask = [&](std::int64_t B, std::int64_t first) {
    OpCase op = dropout_case(B, T, C, kRate);
    op.batch.first_sample = first;
    const Tensor y = run_op(op).out[0];
    std::vector<bool> kept;
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      kept.push_back(y.data<float>()[i] != 0.f);
    }
    return kept;
  };
  const auto whole = mask(3, 8);
  const auto front = mask(1, 8), back = mask(2, 9);
  EXPECT_TRUE(std::equal(front.begin(), front.end(), whole.begin()));
  EXPECT_TRUE(std::equal(back.begin(), back.end(), whole.begin() + kRow));
  EXPECT_FALSE(std::equal(front.begin(), front.end(), whole.begin() + kRow));
}

TEST(Dropout, DiffersBetweenSites) {
  Graph graph(1, 8, DType::f32);
  const Value x = graph.add_input({1, 8, 16});
  dropout(graph, dropout(graph, x, kRate), kRate);
  const MicroBatch batch = make_batch(1, 8, 9);
  RunContext run;
  run.batch = &batch;
  run.training = true;
  const Tensor ones = Tensor::zeros(DType::f32, {1, 8, 16});
  std::fill_n(ones.data<float>(), 128, 1.f);
  const std::vector<Tensor> in{ones};
  std::vector<Tensor> masks;
  for (const Node& node : graph.nodes()) {
    masks.push_back(Tensor::zeros(DType::f32, {1, 8, 16}));
    node.forward({in, {&masks.back(), 1}, {}, run});
  }
  EXPECT_FALSE(
      std::equal(masks[0].data<float>(), masks[0].data<float>() + 128, masks[1].data<float>()));
}

TEST(ResidualDropout, RefusesARateOfOneAndTwoShapes) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 4});
  EXPECT_THROW(residual_dropout(graph, x, x, 1.f), Error);
  EXPECT_THROW(residual_dropout(graph, x, graph.add_input({2, 3, 5}), 0.f), Error);
  EXPECT_THROW(dropout(graph, x, -0.1f), Error);
}

}  // namespace
}  // namespace strata
