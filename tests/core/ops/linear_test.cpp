#include "core/ops/linear.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

OpCase linear_case(std::int64_t B,
                   std::int64_t T,
                   std::int64_t K,
                   std::int64_t N,
                   WeightLayout layout,
                   bool bias) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.multiplies = true;
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, K});
    const bool out_in = layout == WeightLayout::out_in;
    const Value weight = graph.add_param(0, out_in ? Shape{N, K} : Shape{K, N});
    linear(graph, x, weight, bias ? graph.add_param(1, {N}) : Value(), layout);
  };
  op.reference = linear_reference(K, N, layout);
  return op;
}

class LinearLayouts : public testing::TestWithParam<WeightLayout> {};

TEST_P(LinearLayouts, MatchItsFormula) {
  expect_op_matches_reference(linear_case(3, 13, 17, 19, GetParam(), false));
}

TEST_P(LinearLayouts, MatchItsFormulaWithBias) {
  expect_op_matches_reference(linear_case(3, 13, 17, 19, GetParam(), true));
  expect_op_matches_reference(linear_case(1, 1, 7, 33, GetParam(), true));
}

TEST_P(LinearLayouts, SumTheBiasGradientOverSeveralRowChunks) {
  expect_op_matches_reference(linear_case(3, 47, 5, 6, GetParam(), true));
}

TEST_P(LinearLayouts, RefuseAWeightOfTheOtherLayout) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 8});
  const bool out_in = GetParam() == WeightLayout::out_in;
  const Value weight = graph.add_param(0, out_in ? Shape{8, 5} : Shape{5, 8});
  EXPECT_THROW(linear(graph, x, weight, {}, GetParam()), Error);
}

INSTANTIATE_TEST_SUITE_P(All,
                         LinearLayouts,
                         testing::Values(WeightLayout::out_in, WeightLayout::in_out));

TEST(Linear, CountsTwoFlopsForEachProduct) {
  Graph graph(2, 3, DType::f32);
  linear(graph, graph.add_input({2, 3, 8}), graph.add_param(0, {5, 8}), {}, WeightLayout::out_in);
  EXPECT_EQ(graph.nodes()[0].flops, 2.0 * 6 * 8 * 5);
}

}  // namespace
}  // namespace strata
