#include "core/ops/norm.h"

#include "core/cpu/norm.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

void check_operands(const Graph& graph, std::string_view op, Value x, Value weight) {
  check_activation(graph, op, x);
  check_param(graph, op, weight);
  check_shapes(graph,
               op,
               graph.shape(weight) == Shape{graph.shape(x).back()},
               "weight (C) beside x (..., C)",
               {x, weight});
}

/// One number for each row of x.
Shape rows_of(const Shape& shape) {
  return Shape{shape.numel() / shape.back()};
}

}  // namespace

Value layer_norm(Graph& graph, Value x, Value weight, Value bias, float eps) {
  check_operands(graph, "layer_norm", x, weight);
  const Shape shape = graph.shape(x);
  Node node;
  node.op = "layer_norm";
  node.in = {x, weight};
  if (bias) {
    check_operands(graph, "layer_norm", x, bias);
    node.in.push_back(bias);
  }
  const Value y = graph.add_result(graph.dtype(), shape);
  const Value mean = add_statistic(graph, rows_of(shape), "layer_norm", "mean");
  const Value rstd = add_statistic(graph, rows_of(shape), "layer_norm", "rstd");
  node.out = {y, mean, rstd};
  node.keeps_in = bit(0) | bit(1);
  node.keeps_out = bit(1) | bit(2);
  node.backward_scratch_bytes = cpu::norm_scratch_bytes(rows_of(shape)[0], shape.back());
  node.flops = 8.0 * static_cast<double>(shape.numel());
  node.forward = [eps](const ForwardArgs& a) {
    const Tensor b = a.in.size() > 2 ? a.in[2] : Tensor();
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::layer_norm_forward(a.out[0], a.out[1], a.out[2], a.in[0], a.in[1], b, eps);
    }
    no_kernel("layer_norm", a.in[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const GradSink dbias = a.grad_in.size() > 2 ? a.grad_in[2] : GradSink();
    const Tensor& dy = a.grad_out[0];
    if (dy.on(DeviceKind::cpu)) {
      return cpu::layer_norm_backward(
          a.grad_in[0], a.grad_in[1], dbias, dy, a.in[0], a.in[1], a.out[1], a.out[2], a.scratch);
    }
    no_kernel("layer_norm", dy.device());
  };
  graph.add_node(std::move(node));
  return y;
}

Value rms_norm(Graph& graph, Value x, Value weight, float eps) {
  check_operands(graph, "rms_norm", x, weight);
  const Shape shape = graph.shape(x);
  const Value y = graph.add_result(graph.dtype(), shape);
  const Value rstd = add_statistic(graph, rows_of(shape), "rms_norm", "rstd");
  Node node;
  node.op = "rms_norm";
  node.in = {x, weight};
  node.out = {y, rstd};
  node.keeps_in = bit(0) | bit(1);
  node.keeps_out = bit(1);
  node.backward_scratch_bytes = cpu::norm_scratch_bytes(rows_of(shape)[0], shape.back());
  node.flops = 6.0 * static_cast<double>(shape.numel());
  node.forward = [eps](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::rms_norm_forward(a.out[0], a.out[1], a.in[0], a.in[1], eps);
    }
    no_kernel("rms_norm", a.in[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (dy.on(DeviceKind::cpu)) {
      return cpu::rms_norm_backward(
          a.grad_in[0], a.grad_in[1], dy, a.in[0], a.in[1], a.out[1], a.scratch);
    }
    no_kernel("rms_norm", dy.device());
  };
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
