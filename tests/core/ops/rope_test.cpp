#include "core/ops/rope.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

class RopeStyles : public testing::TestWithParam<RopeStyle> {};

OpCase rope_case(
    std::int64_t B, std::int64_t T, std::int64_t heads, std::int64_t D, RopeStyle style) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.record = [=](Graph& graph) {
    rope(graph, graph.add_input({B, T, heads * D}), D, 10000.0, style);
  };
  op.reference = rope_reference(heads, D, 10000.0, style);
  return op;
}

TEST_P(RopeStyles, MatchTheirFormula) {
  expect_op_matches_reference(rope_case(3, 13, 3, 6, GetParam()));
  expect_op_matches_reference(rope_case(2, 5, 1, 38, GetParam()));
}

TEST_P(RopeStyles, LeavePositionZeroAsItIs) {
  const OpCase op = rope_case(1, 1, 2, 10, GetParam());
  expect_op_matches_reference(op);
  const OpOutcome outcome = run_op(op, {.round_operands = true});
  const OpOutcome same = run_op(op, {.dtype = DType::bf16, .round_operands = true});
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(outcome.out[0].data<float>()[i], to_float(same.out[0].data<bf16>()[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(All,
                         RopeStyles,
                         testing::Values(RopeStyle::half_split, RopeStyle::interleaved));

TEST(Rope, KeepsItsAnglesAtFarPositions) {
  OpCase op = rope_case(1, 4099, 1, 4, RopeStyle::half_split);
  op.batch = make_batch(1, 4099, 9);
  const OpOutcome outcome = run_op(op);
  EXPECT_EQ(outcome.out[0].numel(), 4099 * 4);
  expect_op_matches_reference(op);
}

TEST(Rope, RefusesAnOddHeadAndAPositionPastTheTable) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 10});
  EXPECT_THROW(rope(graph, x, 5, 10000.0, RopeStyle::half_split), Error);
  EXPECT_THROW(rope(graph, x, 4, 10000.0, RopeStyle::half_split), Error);
  OpCase op = rope_case(1, 3, 1, 4, RopeStyle::half_split);
  op.batch.positions.data<std::int32_t>()[2] = 3;
  EXPECT_THROW(run_op(op), Error);
}

}  // namespace
}  // namespace strata
