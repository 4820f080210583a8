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

/// in: x, branch, weight (, bias): the sum, and the norm of it.
OpCase residual_case(std::int64_t B, std::int64_t T, std::int64_t C, int params, bool is_rms) {
  OpCase op = norm_case(B, T, C, params, is_rms);
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, C}), branch = graph.add_input({B, T, C});
    const Value weight = graph.add_param(0, {C});
    if (is_rms) {
      residual_rms_norm(graph, x, branch, 0.f, weight, kEps);
    } else {
      const Value bias = params > 1 ? graph.add_param(1, {C}) : Value();
      residual_layer_norm(graph, x, branch, 0.f, weight, bias, kEps);
    }
  };
  op.reference = [norm = op.reference](const Arrays& in, const MicroBatch& batch) {
    Array sum = in[0];
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += in[1][i];
    }
    Arrays operands{sum};
    operands.insert(operands.end(), in.begin() + 2, in.end());
    return Arrays{sum, norm(operands, batch)[0]};
  };
  return op;
}

TEST(ResidualNorm, MatchesItsFormula) {
  for (const bool is_rms : {false, true}) {
    expect_op_matches_reference(residual_case(3, 13, 17, 1, is_rms));
    expect_op_matches_reference(residual_case(1, 1, 33, 1, is_rms));
    expect_op_matches_reference(residual_case(3, 47, 5, 1, is_rms));
  }
  expect_op_matches_reference(residual_case(3, 13, 17, 2, false));
}

TEST(ResidualNorm, IsTwoNodesWithDropoutAndOneWithout) {
  for (const float rate : {0.f, 0.1f}) {
    Graph graph(2, 3, DType::f32);
    const Value x = graph.add_input({2, 3, 8}), branch = graph.add_input({2, 3, 8});
    const auto [sum, normed] =
        residual_rms_norm(graph, x, branch, rate, graph.add_param(0, {8}), kEps);
    EXPECT_EQ(graph.nodes().size(), rate > 0 ? 2U : 1U);
    EXPECT_EQ(graph.shape(sum), graph.shape(normed));
  }
}

TEST(ResidualNorm, RefusesABranchOfAnotherShape) {
  Graph graph(2, 3, DType::f32);
  const Value x = graph.add_input({2, 3, 8}), branch = graph.add_input({2, 3, 4});
  const Value weight = graph.add_param(0, {8});
  EXPECT_THROW(residual_rms_norm(graph, x, branch, 0.f, weight, kEps), Error);
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
