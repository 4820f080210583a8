#include "core/ops/attention.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "core/cpu/attention.h"
#include "core/error.h"
#include "core/ops/activation.h"
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

TEST(Attention, MatchesItsFormulaOverTilesOfKeys) {
  static_assert(250 > cpu::kAttentionKeys);
  expect_op_matches_reference(attention_case(1, 250, {2, 1, 3}));
}

TEST(Attention, MatchesItsFormulaForEveryWidthOfAHead) {
  // Channels that fill two to eight vectors, with and without a ragged end.
  for (const std::int64_t D : {24, 40, 80, 128}) {
    SCOPED_TRACE(D);
    expect_op_matches_reference(attention_case(1, 50, {1, 1, D}));
  }
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
  // Starts at a border of panels, inside one, and with whole panels and tiles of other documents
  // before them.
  expect_op_matches_reference(with_documents(attention_case(1, 120, {1, 1, 4}), {48, 50, 97, 119}));
  expect_op_matches_reference(
      with_documents(attention_case(1, 260, {1, 1, 3}), {1, 100, 230, 250}));
}

TEST(Attention, GivesTheSameBitsForADocumentWhereverTheOthersEnd) {
  // Rows from 230 on start a document inside a panel: what stands before changes nothing, not even
  // where the panel's walk over the keys starts.
  constexpr std::int64_t kFrom = 230, kTo = 260, kWidth = 4;
  const OpCase whole = with_documents(attention_case(1, kTo, {1, 1, kWidth}), {kFrom});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const OpOutcome want = run_op(whole, {.dtype = dtype});
    for (const std::vector<std::int32_t>& starts :
         {std::vector<std::int32_t>{20, 70, kFrom}, {199, kFrom}, {210, 229, kFrom}}) {
      const OpOutcome got = run_op(with_documents(whole, starts), {.dtype = dtype});
      const std::int64_t size = size_bytes(dtype);
      EXPECT_EQ(std::memcmp(got.out[0].bytes() + kFrom * kWidth * size,
                            want.out[0].bytes() + kFrom * kWidth * size,
                            static_cast<std::size_t>((kTo - kFrom) * kWidth * size)),
                0)
          << to_string(dtype) << ", first start " << starts[0];
    }
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

TEST(Split, GivesViewsThatOnlyOpsTakeWhichSaySo) {
  Graph graph(2, 3, DType::f32);
  const std::vector<std::int64_t> widths{4, 2, 2};
  const Value x = graph.add_result(DType::f32, {2, 3, 8});
  const std::vector<Value> parts = split(graph, x, widths);
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(graph.shape(parts[0]), Shape({2, 3, 4}));
  EXPECT_EQ(graph.info(parts[2]).first_column, 6);
  EXPECT_EQ(graph.info(parts[2]).of, x);
  EXPECT_NO_THROW(attention(graph, parts[0], parts[1], parts[2], 2, 1));
  EXPECT_THROW(gelu_tanh(graph, parts[0]), Error);
}

TEST(Split, RefusesWidthsThatDoNotAddUp) {
  Graph graph(2, 3, DType::f32);
  const std::vector<std::int64_t> widths{5, 1};
  EXPECT_THROW(split(graph, graph.add_result(DType::f32, {2, 3, 7}), widths), Error);
}

}  // namespace
}  // namespace strata
