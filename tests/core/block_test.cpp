#include "core/block.h"

#include <vector>

#include <gtest/gtest.h>

namespace strata {
namespace {

/// y = a * b elementwise; keeps both operands.
Value multiply(Graph& g, Value a, Value b) {
  const Value y = g.add_result(DType::f32, g.shape(a));
  Node node;
  node.op = "multiply";
  node.in = {a, b};
  node.out = {y};
  node.keeps_in = 3;
  node.forward = [](const ForwardArgs& f) {
    for (std::int64_t i = 0; i < f.out[0].numel(); ++i) {
      f.out[0].data<float>()[i] = f.in[0].data<float>()[i] * f.in[1].data<float>()[i];
    }
  };
  node.backward = [](const BackwardArgs& back) {
    for (std::size_t operand = 0; operand < 2; ++operand) {
      if (!back.grad_in[operand]) {
        continue;
      }
      float* to = back.grad_in[operand].tensor.data<float>();
      for (std::int64_t i = 0; i < back.grad_out[0].numel(); ++i) {
        const float d = back.grad_out[0].data<float>()[i] * back.in[1 - operand].data<float>()[i];
        to[i] = back.grad_in[operand].mode == Accumulate::add ? to[i] + d : d;
      }
    }
  };
  g.add_node(std::move(node));
  return y;
}

/// y = (x * w)^2 * x: a value used twice, an input used twice, a result that is the output.
class Polynomial final : public Block {
 public:
  Polynomial() { spec_.params = {{{0, "w", Role::matrix, {1, 2, 3}}, {}}}; }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "polynomial"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    const Value p = multiply(g, x, params[0]);
    const Value copy = multiply(g, p, params[0]);  // p is used twice, w twice
    const Value q = multiply(g, copy, p);
    return multiply(g, q, x);
  }

 private:
  BlockSpec spec_;
};

struct Buffers {
  explicit Buffers(const BlockProgram& program)
      : saved(static_cast<std::size_t>(program.saved_bytes())),
        workspace(static_cast<std::size_t>(program.workspace_bytes())) {}
  std::vector<std::byte> saved, workspace;
  Tensor x = Tensor::zeros(DType::f32, {1, 2, 3}), y = Tensor::zeros(DType::f32, {1, 2, 3});
  Tensor dx = Tensor::zeros(DType::f32, {1, 2, 3}), dy = Tensor::zeros(DType::f32, {1, 2, 3});
  Tensor w = Tensor::zeros(DType::f32, {1, 2, 3}), dw = Tensor::zeros(DType::f32, {1, 2, 3});
};

TEST(BlockProgram, RunsAGraphWhoseValuesAreUsedTwiceAndAccumulates) {
  const Polynomial block;
  const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  Buffers r(program);
  for (int i = 0; i < 6; ++i) {
    r.x.data<float>()[i] = 0.5f + static_cast<float>(i);
    r.w.data<float>()[i] = 2.f - static_cast<float>(i) * 0.25f;
    r.dy.data<float>()[i] = 1.f;
    r.dw.data<float>()[i] = 100.f;
  }
  const std::vector<Tensor> params{r.w};
  const std::vector<GradSink> sinks{{r.dw, Accumulate::add}};
  const RunContext run;
  const BlockProgram::Bytes bytes{.input = {r.x.bytes(), 24},
                                  .output = {r.y.bytes(), 24},
                                  .input_grad = {r.dx.bytes(), 24},
                                  .output_grad = {r.dy.bytes(), 24},
                                  .saved = r.saved,
                                  .workspace = r.workspace,
                                  .params = params,
                                  .param_grads = sinks};
  program.forward(bytes, run);
  program.backward(bytes, run);
  for (int i = 0; i < 6; ++i) {
    const float x = r.x.data<float>()[i], w = r.w.data<float>()[i];
    EXPECT_FLOAT_EQ(r.y.data<float>()[i], x * w * w * x * w * x);
    EXPECT_FLOAT_EQ(r.dx.data<float>()[i], 3 * x * x * w * w * w);
    EXPECT_FLOAT_EQ(r.dw.data<float>()[i], 100.f + 3 * x * x * x * w * w);
  }
}

TEST(BlockProgram, RecomputeLeavesTheOutputAloneAndRestoresTheSlots) {
  const Polynomial block;
  const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  Buffers r(program);
  for (int i = 0; i < 6; ++i) {
    r.x.data<float>()[i] = r.w.data<float>()[i] = 1.5f;
  }
  const std::vector<Tensor> params{r.w};
  const RunContext run;
  BlockProgram::Bytes bytes{.input = {r.x.bytes(), 24},
                            .output = {r.y.bytes(), 24},
                            .input_grad = {},
                            .output_grad = {},
                            .saved = r.saved,
                            .workspace = r.workspace,
                            .params = params,
                            .param_grads = {}};
  program.forward(bytes, run);
  const auto kept = r.saved;
  std::fill(r.saved.begin(), r.saved.end(), std::byte{0});
  bytes.output = {};
  program.forward(bytes, run);
  EXPECT_EQ(r.saved, kept);
}

TEST(BlockProgram, KeepsOnlyWhatBackwardReadsAndNothingInEvaluation) {
  const Polynomial block;
  const BlockProgram train(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  const BlockProgram evaluate(block, 1, 2, 3, DType::f32, BlockProgram::Use::evaluate);
  EXPECT_EQ(train.slots().size(),
            3u);  // p, its square's operand, q; x is the boundary, y the next one's
  EXPECT_EQ(train.saved_bytes(), 3 * 64);
  EXPECT_EQ(evaluate.saved_bytes(), 0);
  EXPECT_LE(evaluate.workspace_bytes(), 3 * 64);
}

}  // namespace
}  // namespace strata
