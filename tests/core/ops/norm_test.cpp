#include "core/ops/norm.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

constexpr float kEps = 1e-3f;

OpCase norm_case(std::int64_t B, std::int64_t T, std::int64_t C, int params, bool rms) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, C});
    const Value weight = graph.add_param(0, {C});
    if (rms) {
      rms_norm(graph, x, weight, kEps);
    } else {
      layer_norm(graph, x, weight, params > 1 ? graph.add_param(1, {C}) : Value(), kEps);
    }
  };
  op.reference = rms ? rms_norm_reference(C, kEps) : layer_norm_reference(C, kEps);
  return op;
}

TEST(LayerNorm, MatchesItsFormula) {
  expect_op_matches_reference(norm_case(3, 13, 17, 2, false));
}

TEST(LayerNorm, MatchesItsFormulaWithoutBias) {
  expect_op_matches_reference(norm_case(3, 13, 17, 1, false));
}

TEST(LayerNorm, MatchesItsFormulaOnOneToken) {
  expect_op_matches_reference(norm_case(1, 1, 33, 2, false));
}

TEST(LayerNorm, SumsParameterGradientsOverSeveralRowChunks) {
  expect_op_matches_reference(norm_case(3, 47, 5, 2, false));
}

TEST(RmsNorm, MatchesItsFormula) {
  expect_op_matches_reference(norm_case(3, 13, 17, 1, true));
  expect_op_matches_reference(norm_case(1, 1, 33, 1, true));
}

TEST(RmsNorm, SumsParameterGradientsOverSeveralRowChunks) {
  expect_op_matches_reference(norm_case(3, 47, 5, 1, true));
}

TEST(RmsNorm, RefusesAWeightOfAnotherWidth) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 8});
  const Value weight = graph.add_param(0, {9});
  try {
    rms_norm(graph, x, weight, kEps);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::internal);
    EXPECT_STREQ(e.what(), "rms_norm: weight (C) beside x (..., C) needed, got (2, 3, 8), (9)");
  }
}

TEST(RmsNorm, RefusesAnActivationAsWeight) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 8});
  EXPECT_THROW(rms_norm(graph, x, graph.add_result(DType::f32, {8}), kEps), Error);
}

}  // namespace
}  // namespace strata
