#include "core/ops/activation.h"

#include "core/cpu/activation.h"
#include "core/ops/checks.h"

namespace strata {

Value gelu_tanh(Graph& graph, Value x) {
  check_activation(graph, "gelu_tanh", x);
  const Value y = graph.add_result(graph.dtype(), graph.shape(x));
  Node node;
  node.op = "gelu_tanh";
  node.in = {x};
  node.out = {y};
  node.keeps_in = bit(0);
  node.flops = 30.0 * static_cast<double>(graph.shape(x).numel());
  node.forward = [](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::gelu_tanh_forward(a.out[0], a.in[0]);
    }
    no_kernel("gelu_tanh", a.in[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("gelu_tanh", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::gelu_tanh_backward(a.grad_in[0], dy, a.in[0]);
    }
  };
  node.redo = {.in = bit(0), .gives = bit(0), .flops = node.flops, .body = node.forward};
  graph.add_node(std::move(node));
  return y;
}

Value swiglu(Graph& graph, Value gate, Value up) {
  check_activation(graph, "swiglu", gate);
  check_activation(graph, "swiglu", up);
  check_shapes(graph,
               "swiglu",
               graph.shape(gate) == graph.shape(up),
               "gate and up of one shape",
               {gate, up});
  const Value y = graph.add_result(graph.dtype(), graph.shape(gate));
  Node node;
  node.op = "swiglu";
  node.in = {gate, up};
  node.out = {y};
  node.keeps_in = bit(0) | bit(1);
  node.flops = 20.0 * static_cast<double>(graph.shape(gate).numel());
  node.forward = [](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::swiglu_forward(a.out[0], a.in[0], a.in[1]);
    }
    no_kernel("swiglu", a.in[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (dy.on(DeviceKind::cpu)) {
      return cpu::swiglu_backward(a.grad_in[0], a.grad_in[1], dy, a.in[0], a.in[1]);
    }
    no_kernel("swiglu", dy.device());
  };
  node.redo = {.in = bit(0) | bit(1), .gives = bit(0), .flops = node.flops, .body = node.forward};
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
