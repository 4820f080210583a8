#include "core/ops/embedding.h"

#include <array>

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

constexpr std::int64_t V = 11;

OpCase embedding_case(std::int64_t B, std::int64_t T, std::int64_t C, bool positions) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, V)};
  op.record = [=](Graph& graph) {
    const Value table = graph.add_param(0, {V, C});
    embedding(graph, table, positions ? graph.add_param(1, {T + 2, C}) : Value());
  };
  op.reference = embedding_reference(C);
  return op;
}

TEST(Embedding, MatchesItsFormula) {
  expect_op_matches_reference(embedding_case(3, 13, 17, false));
}

TEST(Embedding, MatchesItsFormulaWithPositions) {
  expect_op_matches_reference(embedding_case(3, 13, 17, true));
  expect_op_matches_reference(embedding_case(1, 1, 65, true));
}

TEST(AddPositions, MatchesItsFormula) {
  for (const auto& [B, T, C] : {std::array<std::int64_t, 3>{3, 13, 17}, {1, 1, 65}}) {
    OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, V)};
    op.record = [T = T, C = C](Graph& graph) {
      const Value x = graph.add_input({graph.B(), T, C});
      add_positions(graph, x, graph.add_param(0, {T + 2, C}));
    };
    op.reference = add_positions_reference(C);
    expect_op_matches_reference(op);
  }
}

TEST(AddPositions, RefusesATableThatDoesNotFit) {
  Graph graph(2, 8, DType::f32);
  const Value x = graph.add_input({2, 8, 4});
  EXPECT_THROW(add_positions(graph, x, graph.add_param(0, {7, 4})), Error);
  EXPECT_THROW(add_positions(graph, x, graph.add_param(0, {8, 5})), Error);
}

Errc code_of(const OpCase& op, std::string& message) {
  try {
    run_op(op);
  } catch (const Error& e) {
    message = e.what();
    return e.code();
  }
  return Errc::interrupted;
}

TEST(Embedding, RefusesATokenOutsideTheVocabulary) {
  for (const std::int32_t token : {static_cast<std::int32_t>(V), -1}) {
    OpCase op = embedding_case(2, 3, 4, false);
    op.batch.tokens.data<std::int32_t>()[4] = token;
    std::string message;
    EXPECT_EQ(code_of(op, message), Errc::data);
    EXPECT_NE(message.find("token below 11 needed, got " + std::to_string(token)),
              std::string::npos)
        << message;
  }
}

TEST(Embedding, RefusesAPositionOutsideItsTable) {
  OpCase op = embedding_case(2, 3, 4, true);
  op.batch.positions.data<std::int32_t>()[0] = 5;
  std::string message;
  EXPECT_EQ(code_of(op, message), Errc::internal);
  EXPECT_NE(message.find("position below 5 needed, got 5"), std::string::npos) << message;
}

TEST(Embedding, RefusesAMicroBatchOfAnotherShape) {
  OpCase op = embedding_case(2, 3, 4, false);
  op.batch = make_batch(2, 4, V);
  std::string message;
  EXPECT_EQ(code_of(op, message), Errc::internal);
}

TEST(Embedding, RefusesTooFewPositions) {
  Graph graph(2, 8, DType::f32);
  const Value table = graph.add_param(0, {V, 4});
  EXPECT_THROW(embedding(graph, table, graph.add_param(1, {7, 4})), Error);
}

}  // namespace
}  // namespace strata
