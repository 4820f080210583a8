#include "core/ops/activation.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/jacobian.h"

namespace strata {
namespace {

using namespace tests;

OpCase activation_case(std::int64_t B, std::int64_t T, std::int64_t C, bool gated) {
  OpCase op{.B = B, .T = T, .record = {}, .reference = {}, .batch = make_batch(B, T, 9)};
  op.spread = 3.0;
  op.record = [=](Graph& graph) {
    const Value x = graph.add_input({B, T, C});
    if (gated) {
      swiglu(graph, x, graph.add_input({B, T, C}));
    } else {
      gelu_tanh(graph, x);
    }
  };
  op.reference = gated ? swiglu_reference() : gelu_tanh_reference();
  return op;
}

TEST(GeluTanh, MatchesItsFormula) {
  expect_op_matches_reference(activation_case(3, 13, 17, false));
  expect_op_matches_reference(activation_case(1, 1, 1, false));
}

TEST(Swiglu, MatchesItsFormula) {
  expect_op_matches_reference(activation_case(3, 13, 17, true));
  expect_op_matches_reference(activation_case(1, 1, 1, true));
}

TEST(Activations, StayFiniteFarOut) {
  for (const bool gated : {false, true}) {
    OpCase op = activation_case(2, 64, 33, gated);
    op.spread = 500.0;
    expect_op_matches_reference(op);
  }
}

TEST(Swiglu, RefusesTwoShapes) {
  Graph graph(2, 3, DType::f32);
  EXPECT_THROW(swiglu(graph, graph.add_input({2, 3, 4}), graph.add_input({2, 3, 5})), Error);
}

}  // namespace
}  // namespace strata
