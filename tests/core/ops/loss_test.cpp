#include "core/ops/loss.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/ops/linear.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

OpCase loss_case(std::int64_t B, std::int64_t T, std::int64_t V, std::int64_t C) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, V)};
  op.multiplies = true;
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, C});
    linear_cross_entropy(graph, x, graph.add_param(0, {V, C}));
  };
  op.reference = cross_entropy_reference(V, C);
  return op;
}

TEST(LinearCrossEntropy, MatchesItsFormula) {
  expect_op_matches_reference(loss_case(3, 13, 37, 17));
}

TEST(LinearCrossEntropy, MatchesItsFormulaOverSeveralChunks) {
  static_assert(3 * 350 > kLossRows && 2100 > kLossColumns);
  expect_op_matches_reference(loss_case(3, 350, 7, 3));
  expect_op_matches_reference(loss_case(1, 5, 2100, 3));
}

TEST(LinearCrossEntropy, IsZeroWhereEveryTargetIsMasked) {
  OpCase op = loss_case(2, 5, 11, 4);
  std::fill_n(op.batch.targets.data<std::int32_t>(), 10, kMasked);
  expect_op_matches_reference(op);
  const OpOutcome outcome = run_op(op);
  EXPECT_EQ(outcome.loss, 0.0);
  for (const Tensor& gradient : outcome.grad_in) {
    for (std::int64_t i = 0; i < gradient.numel(); ++i) {
      ASSERT_EQ(gradient.data<float>()[i], 0.f);
    }
  }
}

TEST(LinearCrossEntropy, SurvivesLargeLogits) {
  OpCase op = loss_case(2, 8, 11, 4);
  op.spread = 30.0;
  const OpOutcome outcome = run_op(op);
  EXPECT_TRUE(std::isfinite(outcome.loss));
  EXPECT_GT(outcome.loss, 100.0);
  EXPECT_EQ(outcome.loss, outcome.evaluated_loss);
}

TEST(LinearCrossEntropy, RefusesATargetOutsideTheVocabulary) {
  for (const std::int32_t target : {11, -2}) {
    OpCase op = loss_case(2, 5, 11, 4);
    op.batch.targets.data<std::int32_t>()[3] = target;
    try {
      run_op(op);
      FAIL() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::data);
      EXPECT_NE(std::string(e.what()).find("target below 11 needed, got"), std::string::npos);
    }
  }
}

TEST(LinearCrossEntropy, RefusesAWeightOfAnotherWidth) {
  Graph graph(2, 3, DType::f32);
  EXPECT_THROW(linear_cross_entropy(graph, graph.add_input({2, 3, 8}), graph.add_param(0, {11, 9})),
               Error);
}

TEST(Logits, AreTheProductWithTheWeight) {
  OpCase op = loss_case(3, 13, 37, 17);
  op.has_backward = false;
  op.record = [](Graph& graph) {
    logits(graph, graph.add_input({3, 13, 17}), graph.add_param(0, {37, 17}));
  };
  op.reference = linear_reference(17, 37, WeightLayout::out_in);
  expect_op_matches_reference(op);
  EXPECT_EQ(run_op(op, {.dtype = DType::bf16}).out[0].dtype(), DType::f32);
}

}  // namespace
}  // namespace strata
