#include "core/block.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "core/ops/activation.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/ops/residual.h"
#include "core/runtime.h"

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

/// y = 2 * x for rows that need not be one behind the other; its gradient is made from x again, if
/// that is kept.
Value twice(Graph& g, Value x, std::uint32_t keeps_in = 1) {
  const Value y = g.add_result(DType::f32, g.shape(x));
  Node node;
  node.op = "twice";
  node.in = {x};
  node.out = {y};
  node.keeps_in = keeps_in;
  const auto at = [](const Tensor& t, std::int64_t row, std::int64_t c) -> float& {
    return t.data<float>()[row * t.strides()[1] + c];
  };
  node.forward = [at](const ForwardArgs& f) {
    for (std::int64_t row = 0; row < 2; ++row) {
      for (std::int64_t c = 0; c < f.in[0].shape().back(); ++c) {
        at(f.out[0], row, c) = 2 * at(f.in[0], row, c);
      }
    }
  };
  node.backward = [at, keeps_in](const BackwardArgs& back) {
    const GradSink& to = back.grad_in[0];
    for (std::int64_t row = 0; row < 2; ++row) {
      for (std::int64_t c = 0; c < to.tensor.shape().back(); ++c) {
        const float d =
            2 * at(back.grad_out[0], row, c) + (keeps_in != 0 ? 0 * at(back.in[0], row, c) : 0);
        float& sum = at(to.tensor, row, c);
        sum = to.mode == Accumulate::add ? sum + d : d;
      }
    }
  };
  g.add_node(std::move(node));
  return y;
}

/// (1, 2, 1) and (1, 2, 2) side by side.
Value join(Graph& g, Value a, Value b) {
  const Value y = g.add_result(DType::f32, {1, 2, 3});
  Node node;
  node.op = "join";
  node.in = {a, b};
  node.out = {y};
  node.forward = [](const ForwardArgs& f) {
    for (std::int64_t row = 0; row < 2; ++row) {
      float* const to = f.out[0].data<float>() + 3 * row;
      to[0] = f.in[0].data<float>()[row];
      to[1] = f.in[1].data<float>()[2 * row];
      to[2] = f.in[1].data<float>()[2 * row + 1];
    }
  };
  node.backward = [](const BackwardArgs& back) {
    for (std::int64_t row = 0; row < 2; ++row) {
      const float* const from = back.grad_out[0].data<float>() + 3 * row;
      back.grad_in[0].tensor.data<float>()[row] = from[0];
      back.grad_in[1].tensor.data<float>()[2 * row] = from[1];
      back.grad_in[1].tensor.data<float>()[2 * row + 1] = from[2];
    }
  };
  g.add_node(std::move(node));
  return y;
}

/// y = (2 a, 2 b 2 b) where a (1, 2, 1) and b (1, 2, 2) are the columns of x * w; b is read twice.
class Columned final : public Block {
 public:
  Columned() { spec_.params = {{{0, "w", Role::matrix, {1, 2, 3}}, {}}}; }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "columned"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    const Value p = multiply(g, x, params[0]);
    const Value a = twice(g, g.add_columns(p, 0, 1));
    const Value columns = g.add_columns(p, 1, 2);
    const Value b = twice(g, columns), again = twice(g, columns);
    return join(g, a, multiply(g, b, again));
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

/// Ends in a norm, which makes the output beside statistics that are saved.
class Normed final : public Block {
 public:
  Normed() {
    spec_.params = {{{0, "w", Role::matrix, {1, 2, 3}}, {}}, {{1, "n", Role::vector, {3}}, {}}};
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "normed"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    return layer_norm(g, multiply(g, x, params[0]), params[1], {}, 1e-5f);
  }

 private:
  BlockSpec spec_;
};

TEST(BlockProgram, RecomputeRestoresWhatIsMadeBesideTheOutput) {
  const Normed block;
  const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  Buffers r(program);
  for (int i = 0; i < 6; ++i) {
    r.x.data<float>()[i] = static_cast<float>(i * i);
    r.w.data<float>()[i] = 1.5f;
  }
  const std::vector<Tensor> params{r.w, Tensor::zeros(DType::f32, {3})};
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
  EXPECT_NE(kept, std::vector<std::byte>(kept.size()));
}

/// y = (2 a, 2 b) x, where a and b are columns of x * w that nobody keeps.
class ColumnedOnce final : public Block {
 public:
  ColumnedOnce() { spec_.params = {{{0, "w", Role::matrix, {1, 2, 3}}, {}}}; }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "columned_once"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    const Value p = multiply(g, x, params[0]);
    const Value a = twice(g, g.add_columns(p, 0, 1), 0), b = twice(g, g.add_columns(p, 1, 2), 0);
    return multiply(g, join(g, a, b), x);
  }

 private:
  BlockSpec spec_;
};

TEST(BlockProgram, RecomputeFollowsColumnsToWhatTheyShow) {
  const ColumnedOnce block;
  const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  Buffers r(program);
  std::fill(r.workspace.begin(), r.workspace.end(), std::byte{0xff});
  for (int i = 0; i < 6; ++i) {
    r.x.data<float>()[i] = static_cast<float>(i + 1);
    r.w.data<float>()[i] = static_cast<float>(7 - i);
  }
  const std::vector<Tensor> params{r.w};
  const RunContext run;
  program.forward({.input = {r.x.bytes(), 24},
                   .output = {},
                   .input_grad = {},
                   .output_grad = {},
                   .saved = r.saved,
                   .workspace = r.workspace,
                   .params = params,
                   .param_grads = {}},
                  run);
  const auto* const joined = reinterpret_cast<const float*>(r.saved.data());
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(joined[i], 2 * r.x.data<float>()[i] * r.w.data<float>()[i]) << i;
  }
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

/// y = x + 1 elementwise, whose result backward reads again; with a redo.
Value add_one(Graph& g, Value x) {
  const Value y = g.add_result(DType::f32, g.shape(x));
  Node node;
  node.op = "add_one";
  node.in = {x};
  node.out = {y};
  node.flops = 1;
  node.forward = [](const ForwardArgs& f) {
    for (std::int64_t i = 0; i < f.out[0].numel(); ++i) {
      f.out[0].data<float>()[i] = f.in[0].data<float>()[i] + 1;
    }
  };
  node.backward = [](const BackwardArgs& back) {
    if (!back.grad_in[0]) {
      return;
    }
    float* to = back.grad_in[0].tensor.data<float>();
    for (std::int64_t i = 0; i < back.grad_out[0].numel(); ++i) {
      const float d = back.grad_out[0].data<float>()[i];
      to[i] = back.grad_in[0].mode == Accumulate::add ? to[i] + d : d;
    }
  };
  node.redo = {.in = 1, .gives = 1, .flops = node.flops, .body = node.forward};
  g.add_node(std::move(node));
  return y;
}

/// p = x w; b = p + 1, c = b + 1, d = c + 1; y = ((x p) c) d: c and d are read by backward, b by
/// redos alone; c outlives d's reader.
class Chained final : public Block {
 public:
  Chained() { spec_.params = {{{0, "w", Role::matrix, {1, 2, 3}}, {}}}; }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "chained"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    const Value p = multiply(g, x, params[0]);
    const Value b = add_one(g, p), c = add_one(g, b), d = add_one(g, c);
    return multiply(g, multiply(g, multiply(g, x, p), c), d);
  }

 private:
  BlockSpec spec_;
};

TEST(BlockProgram, RedoesWhatItDoesNotSaveThroughChains) {
  using Keep = BlockProgram::Keep;
  const Chained block;
  std::vector<std::vector<float>> gradients;
  for (const Keep keep : {Keep::all, Keep::products}) {
    const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train, keep);
    // p, c, d, x p and (x p) c; c and d come back from p.
    EXPECT_EQ(program.saved_bytes(), (keep == Keep::all ? 5 : 3) * 64);
    EXPECT_EQ(program.redo_flops(), keep == Keep::all ? 0 : 3);
    Buffers r(program);
    for (int i = 0; i < 6; ++i) {
      r.x.data<float>()[i] = 0.5f + static_cast<float>(i);
      r.w.data<float>()[i] = 2.f - static_cast<float>(i) * 0.25f;
      r.dy.data<float>()[i] = 1.f + static_cast<float>(i);
    }
    const std::vector<Tensor> params{r.w};
    const std::vector<GradSink> sinks{{r.dw, Accumulate::overwrite}};
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
    std::fill(r.workspace.begin(), r.workspace.end(), std::byte{0xff});  // another block's by then
    program.backward(bytes, run);
    gradients.push_back({r.dx.data<float>(), r.dx.data<float>() + 6});
    gradients.push_back({r.dw.data<float>(), r.dw.data<float>() + 6});
  }
  EXPECT_EQ(gradients[0], gradients[2]);
  EXPECT_EQ(gradients[1], gradients[3]);
  for (int i = 0; i < 6; ++i) {  // y = x p (p + 2) (p + 3), p = x w
    const float x = 0.5f + static_cast<float>(i), w = 2.f - static_cast<float>(i) * 0.25f;
    const float p = x * w, g = 1.f + static_cast<float>(i);
    const float dp = x * (3 * p * p + 10 * p + 6);
    EXPECT_NEAR(
        gradients[3][static_cast<std::size_t>(i)], g * dp * x, 1e-5f * std::abs(g * dp * x));
  }
}

/// h = x w1; a = gelu(h); s = a + dropout(dropout(a)); y = s w2: of h, a and s only s is read by
/// the second product, and s comes back from h through both masks.
class Dropped final : public Block {
 public:
  Dropped() {
    spec_.params = {{{0, "w1", Role::matrix, {3, 40}}, {}}, {{1, "w2", Role::matrix, {40, 3}}, {}}};
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "dropped"; }
  Value build(Graph& g, Value x, std::span<const Value> params, bool) const override {
    const Value a = gelu_tanh(g, linear(g, x, params[0], {}, WeightLayout::in_out));
    const Value s = residual_dropout(g, a, dropout(g, a, 0.5f), 0.5f);
    return linear(g, s, params[1], {}, WeightLayout::in_out);
  }

 private:
  BlockSpec spec_;
};

TEST(BlockProgram, RedoesDropoutUnderTheSameMasks) {
  using Keep = BlockProgram::Keep;
  const Dropped block;
  const auto fill = [](const Tensor& t) {
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      t.data<float>()[i] = static_cast<float>((7 * i) % 11) * 0.25f - 1.f;
    }
  };
  std::vector<std::vector<float>> gradients;
  for (const Keep keep : {Keep::all, Keep::products}) {
    const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train, keep);
    EXPECT_EQ(program.saved_bytes(), (keep == Keep::all ? 2 : 1) * 2 * 40 * 4);
    Buffers r(program);
    const Tensor w1 = Tensor::zeros(DType::f32, {3, 40}), w2 = Tensor::zeros(DType::f32, {40, 3});
    const Tensor dw1 = Tensor::zeros(DType::f32, {3, 40}), dw2 = Tensor::zeros(DType::f32, {40, 3});
    for (const Tensor& t : {r.x, r.dy, w1, w2}) {
      fill(t);
    }
    const std::vector<Tensor> params{w1, w2};
    const std::vector<GradSink> sinks{{dw1, Accumulate::overwrite}, {dw2, Accumulate::overwrite}};
    MicroBatch batch;
    batch.first_sample = 5;
    const RunContext run{.batch = &batch,
                         .seed = 3,
                         .step = 2,
                         .block = 1,
                         .training = true,
                         .stream = &compute_stream()};
    const BlockProgram::Bytes bytes{.input = {r.x.bytes(), 24},
                                    .output = {r.y.bytes(), 24},
                                    .input_grad = {r.dx.bytes(), 24},
                                    .output_grad = {r.dy.bytes(), 24},
                                    .saved = r.saved,
                                    .workspace = r.workspace,
                                    .params = params,
                                    .param_grads = sinks};
    program.forward(bytes, run);
    std::fill(r.workspace.begin(), r.workspace.end(), std::byte{0xff});
    program.backward(bytes, run);
    gradients.push_back({dw2.data<float>(), dw2.data<float>() + dw2.numel()});
  }
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_TRUE(std::ranges::any_of(gradients[0], [](float g) { return g != 0; }));
}

TEST(BlockProgram, ColumnsAreViewsOfTheirOwnerAndOfItsGradient) {
  const Columned block;
  const BlockProgram program(block, 1, 2, 3, DType::f32, BlockProgram::Use::train);
  Buffers r(program);
  for (std::vector<std::byte>* bytes : {&r.saved, &r.workspace}) {
    std::fill(bytes->begin(), bytes->end(), std::byte{0xff});  // NaN: nothing may be read unwritten
  }
  for (int i = 0; i < 6; ++i) {
    r.x.data<float>()[i] = static_cast<float>(i + 1);
    r.w.data<float>()[i] = static_cast<float>(7 - i);
    r.dy.data<float>()[i] = 1.f;
  }
  const std::vector<Tensor> params{r.w};
  const std::vector<GradSink> sinks{{r.dw, Accumulate::overwrite}};
  const auto bytes_of = [](const Tensor& t) {
    return std::span<std::byte>{t.bytes(), static_cast<std::size_t>(t.size_bytes())};
  };
  const RunContext run{.training = true, .stream = &compute_stream()};
  const BlockProgram::Bytes bytes{.input = bytes_of(r.x),
                                  .output = bytes_of(r.y),
                                  .input_grad = bytes_of(r.dx),
                                  .output_grad = bytes_of(r.dy),
                                  .saved = r.saved,
                                  .workspace = r.workspace,
                                  .params = params,
                                  .param_grads = sinks};
  program.forward(bytes, run);
  program.backward(bytes, run);
  for (int i = 0; i < 6; ++i) {
    const float x = r.x.data<float>()[i], w = r.w.data<float>()[i], p = x * w;
    const bool first = i % 3 == 0;
    EXPECT_EQ(r.y.data<float>()[i], first ? 2 * p : 4 * p * p) << i;
    EXPECT_EQ(r.dx.data<float>()[i], (first ? 2 : 8 * p) * w) << i;
    EXPECT_EQ(r.dw.data<float>()[i], (first ? 2 : 8 * p) * x) << i;
  }
}

}  // namespace
}  // namespace strata
