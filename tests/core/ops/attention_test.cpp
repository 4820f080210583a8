#include "core/ops/attention.h"

#include <cmath>

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

struct Heads {
  std::int64_t H, K, D;
};

OpCase attention_case(std::int64_t B, std::int64_t T, Heads heads) {
  const auto [H, K, D] = heads;
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.record = [=](Graph& graph) {
    const Value q = graph.add_input({B, T, H * D});
    const Value k = graph.add_input({B, T, K * D});
    attention(graph, q, k, graph.add_input({B, T, K * D}), H, K);
  };
  op.reference = attention_reference(B, T, H, K, D);
  op.spread = 2.0;
  op.uses_bf16_dot = true;
  return op;
}

TEST(Attention, MatchesItsFormulaInsideOneTile) {
  expect_op_matches_reference(attention_case(3, 13, {1, 1, 17}));
}

TEST(Attention, SharesKeysWithinGroups) {
  expect_op_matches_reference(attention_case(2, 13, {4, 2, 5}));
}

TEST(Attention, MatchesItsFormulaOverSeveralTiles) {
  OpCase op = attention_case(2, 101, {2, 1, 7});
  expect_op_matches_reference(op);
}

TEST(Attention, MatchesItsFormulaOnOneToken) {
  expect_op_matches_reference(attention_case(2, 1, {2, 2, 3}));
}

/// Document starts of one row.
OpCase with_documents(OpCase op, std::vector<std::int32_t> starts) {
  for (std::int64_t t = 0; t < op.T; ++t) {
    std::int32_t start = 0;
    for (const std::int32_t s : starts) {
      start = s <= t ? s : start;
    }
    op.batch.documents.data<std::int32_t>()[t] = start;
  }
  return op;
}

TEST(Attention, SeesNothingBeforeTheDocument) {
  // Starts at a tile border, inside a tile, and with whole tiles of other documents before them.
  expect_op_matches_reference(with_documents(attention_case(1, 120, {1, 1, 4}), {48, 50, 97, 119}));
}

TEST(Attention, GivesTheSameBitsForADocumentWhereverTheOthersEnd) {
  // Rows from 96 on start a document: what stands before changes nothing, not even skipped tiles.
  const OpCase far = with_documents(attention_case(1, 120, {1, 1, 4}), {96});
  OpCase near = with_documents(attention_case(1, 120, {1, 1, 4}), {20, 70, 96});
  const OpOutcome a = run_op(far), b = run_op(near);
  for (std::int64_t i = 96 * 4; i < 120 * 4; ++i) {
    EXPECT_EQ(a.out[0].data<float>()[i], b.out[0].data<float>()[i]);
  }
}

TEST(Attention, SurvivesLargeScores) {
  OpCase op = attention_case(1, 60, {1, 1, 8});
  op.spread = 40.0;
  const OpOutcome outcome = run_op(op);
  for (const Tensor& t : {outcome.out[0], outcome.grad_in[0], outcome.grad_in[1]}) {
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      ASSERT_TRUE(std::isfinite(t.data<float>()[i]));
    }
  }
}

TEST(Attention, RefusesBrokenGroupsAndShapes) {
  Graph graph(2, 3, DType::f32);
  const Value q = graph.add_input({2, 3, 12}), k = graph.add_input({2, 3, 8});
  EXPECT_THROW(attention(graph, q, k, k, 3, 2), Error);
  EXPECT_THROW(attention(graph, q, k, k, 4, 4), Error);
  OpCase op = attention_case(1, 4, {1, 1, 2});
  op.batch.documents.data<std::int32_t>()[1] = 2;
  EXPECT_THROW(run_op(op), Error);
}

TEST(Split, MatchesItsFormula) {
  const std::vector<std::int64_t> widths{5, 1, 11};
  OpCase op{.B = 3, .T = 13, .record = {}, .reference = {}, .batch = make_batch(3, 13, 9)};
  op.record = [=](Graph& graph) { split(graph, graph.add_input({3, 13, 17}), widths); };
  op.reference = split_reference(widths);
  expect_op_matches_reference(op);
}

TEST(Split, RefusesWidthsThatDoNotAddUp) {
  Graph graph(2, 3, DType::f32);
  const std::vector<std::int64_t> widths{5, 1};
  EXPECT_THROW(split(graph, graph.add_input({2, 3, 7}), widths), Error);
}

}  // namespace
}  // namespace strata
