#include "core/ops/linear.h"

#include <algorithm>

#include "core/cpu/rows.h"
#include "core/cpu/scratch.h"
#include "core/matmul.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

/// The three products of a linear layer. M: rows of x; N, K: features out and in.
struct Products {
  std::int64_t M, N, K;
  DType dtype;
  WeightLayout layout;
  bool bias;

  bool out_in() const { return layout == WeightLayout::out_in; }
  // y (M, N) = x (M, K) * W^T or W
  MatmulShape forward() const {
    return {M, N, K, 1, out_in() ? MatmulForm::abt : MatmulForm::ab, dtype, dtype, bias};
  }
  // dx (M, K) = dy (M, N) * W or W^T
  MatmulShape input_grad() const {
    return {M, K, N, 1, out_in() ? MatmulForm::ab : MatmulForm::abt, dtype, dtype};
  }
  // dW (N, K) = dy^T * x or (K, N) = x^T * dy
  MatmulShape weight_grad() const {
    return {out_in() ? N : K, out_in() ? K : N, M, 1, MatmulForm::atb, dtype, DType::f32};
  }

  std::int64_t backward_scratch_bytes() const {
    return std::max({cpu::aligned_bytes(matmul_scratch_bytes(weight_grad())),
                     cpu::aligned_bytes(matmul_scratch_bytes(input_grad())),
                     cpu::sum_rows_scratch_bytes(M, N)});
  }
};

void backward(const Products& p, const BackwardArgs& a) {
  const Tensor& dy = a.grad_out[0];
  Stream& stream = *a.run.stream;
  if (a.grad_in[0]) {
    matmul(a.grad_in[0].tensor, dy, a.in[1], p.input_grad(), a.grad_in[0].mode, a.scratch, stream);
  }
  if (a.grad_in[1]) {
    const Tensor &x = a.in[0], &turned = p.out_in() ? dy : x, &other = p.out_in() ? x : dy;
    matmul(
        a.grad_in[1].tensor, turned, other, p.weight_grad(), a.grad_in[1].mode, a.scratch, stream);
  }
  if (a.grad_in.size() > 2 && a.grad_in[2]) {
    cpu::sum_rows(a.grad_in[2], dy, a.scratch);
  }
}

}  // namespace

Value linear(Graph& graph, Value x, Value weight, Value bias, WeightLayout layout) {
  check_activation(graph, "linear", x);
  check_param(graph, "linear", weight);
  Shape shape = graph.shape(x);
  const Shape& w = graph.shape(weight);
  const std::size_t in_axis = layout == WeightLayout::out_in ? 1 : 0;
  check_shapes(
      graph,
      "linear",
      w.rank() == 2 && w[in_axis] == shape.back(),
      in_axis == 1 ? "weight (out, in) beside x (..., in)" : "weight (in, out) beside x (..., in)",
      {weight, x});
  const std::int64_t K = w[in_axis], N = w[1 - in_axis];
  const Products p{shape.numel() / K, N, K, graph.dtype(), layout, static_cast<bool>(bias)};
  Node node;
  node.op = "linear";
  node.in = {x, weight};
  if (bias) {
    check_param(graph, "linear", bias);
    check_shapes(
        graph, "linear", graph.shape(bias) == Shape{N}, "bias (out) beside weight", {bias, weight});
    node.in.push_back(bias);
  }
  shape[shape.rank() - 1] = N;
  const Value y = graph.add_result(graph.dtype(), shape);
  node.out = {y};
  node.keeps_in = bit(0) | bit(1);
  node.keeps_for_params = bit(0);
  node.forward_scratch_bytes = matmul_scratch_bytes(p.forward());
  node.backward_scratch_bytes = p.backward_scratch_bytes();
  node.flops = 2.0 * static_cast<double>(p.M) * static_cast<double>(N) * static_cast<double>(K);
  node.forward = [p](const ForwardArgs& a) {
    if (!a.in[0].on(DeviceKind::cpu)) {
      no_kernel("linear", a.in[0].device());
    }
    matmul(a.out[0],
           a.in[0],
           a.in[1],
           p.forward(),
           Accumulate::overwrite,
           a.scratch,
           *a.run.stream,
           p.bias ? a.in[2] : Tensor());
  };
  node.redo = {.in = bit(0) | bit(1) | (bias ? bit(2) : 0),
               .gives = bit(0),
               .flops = node.flops,
               .body = node.forward,
               .scratch_bytes = node.forward_scratch_bytes,
               .projection = true};
  node.backward = [p](const BackwardArgs& a) {
    if (!a.grad_out[0].on(DeviceKind::cpu)) {
      no_kernel("linear", a.grad_out[0].device());
    }
    backward(p, a);
  };
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
