#include "core/ops/norm.h"

#include "core/cpu/norm.h"
#include "core/ops/checks.h"
#include "core/ops/residual.h"

namespace strata {

namespace {

/// What makes one norm different from another.
struct Norm {
  std::string_view op;
  bool centred;  // on the mean: it is a statistic beside 1 / std
  float eps;
  double flops_per_element;
};

Norm layer(std::string_view op, float eps) {
  return {op, true, eps, 8.0};
}
Norm rms(std::string_view op, float eps) {
  return {op, false, eps, 6.0};
}

/// Places of a norm's operands and results among those of its node. -1: it has none.
struct Slots {
  int branch = -1, weight = 1, bias = -1;
  int sum = -1, y = 0, mean = -1, rstd = 1;
};

void check_vector(const Graph& graph, std::string_view op, Value x, Value vector) {
  check_param(graph, op, vector);
  check_shapes(graph,
               op,
               graph.shape(vector) == Shape{graph.shape(x).back()},
               "weight (C) beside x (..., C)",
               {x, vector});
}

Tensor at(std::span<const Tensor> all, int slot) {
  return slot < 0 ? Tensor() : all[static_cast<std::size_t>(slot)];
}
GradSink at(std::span<const GradSink> all, int slot) {
  return slot < 0 ? GradSink() : all[static_cast<std::size_t>(slot)];
}

void forward(const Slots& s, float eps, const ForwardArgs& a) {
  cpu::norm_forward({at(a.out, s.y), at(a.out, s.mean), at(a.out, s.rstd)},
                    {a.in[0], at(a.in, s.branch), at(a.out, s.sum)},
                    at(a.in, s.weight),
                    at(a.in, s.bias),
                    eps);
}

void backward(const Slots& s, const BackwardArgs& a) {
  cpu::norm_backward({.dx = a.grad_in[0],
                      .dbranch = at(a.grad_in, s.branch),
                      .dweight = at(a.grad_in, s.weight),
                      .dbias = at(a.grad_in, s.bias)},
                     at(a.grad_out, s.y),
                     at(a.grad_out, s.sum),
                     {.x = s.sum < 0 ? a.in[0] : at(a.out, s.sum),
                      .weight = at(a.in, s.weight),
                      .mean = at(a.out, s.mean),
                      .rstd = at(a.out, s.rstd)},
                     a.scratch);
}

/// The normed value from what backward keeps: the input or the sum, and the statistics.
void redo(const Slots& s, const ForwardArgs& a) {
  cpu::norm_redo(at(a.out, s.y),
                 {.x = s.sum < 0 ? a.in[0] : at(a.out, s.sum),
                  .weight = at(a.in, s.weight),
                  .mean = at(a.out, s.mean),
                  .rstd = at(a.out, s.rstd)},
                 at(a.in, s.bias));
}

/// Records the norm of x, or of x + branch where there is one. The sum is absent without.
ResidualNorm record(
    Graph& graph, const Norm& norm, Value x, Value branch, Value weight, Value bias) {
  check_activation(graph, norm.op, x);
  check_vector(graph, norm.op, x, weight);
  const Shape shape = graph.shape(x);
  const Shape rows{shape.numel() / shape.back()};
  Slots s;
  Node node;
  const auto take = [&](Value v) {
    node.in.push_back(v);
    return static_cast<int>(node.in.size()) - 1;
  };
  const auto give = [&](Value v) {
    node.out.push_back(v);
    return static_cast<int>(node.out.size()) - 1;
  };
  take(x);
  if (branch) {
    check_activation(graph, norm.op, branch);
    check_shapes(
        graph, norm.op, graph.shape(branch) == shape, "x and branch of one shape", {x, branch});
    s.branch = take(branch);
    s.sum = give(graph.add_result(graph.dtype(), shape));
  }
  s.weight = take(weight);
  if (bias) {
    check_vector(graph, norm.op, x, bias);
    s.bias = take(bias);
  }
  s.y = give(graph.add_result(graph.dtype(), shape));
  if (norm.centred) {
    s.mean = give(add_statistic(graph, rows, norm.op, "mean"));
    node.keeps_out |= bit(s.mean);
  }
  s.rstd = give(add_statistic(graph, rows, norm.op, "rstd"));
  node.keeps_out |= bit(s.rstd) | (branch ? bit(s.sum) : 0);
  node.keeps_in = bit(s.weight) | (branch ? 0 : bit(0));
  node.op = norm.op;
  node.backward_scratch_bytes = cpu::norm_scratch_bytes(rows[0], shape.back());
  node.flops = norm.flops_per_element * static_cast<double>(shape.numel());
  node.forward = [s, norm](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return forward(s, norm.eps, a);
    }
    no_kernel(norm.op, a.in[0].device());
  };
  node.backward = [s, norm](const BackwardArgs& a) {
    const Tensor dy = at(a.grad_out, s.y);
    if (dy.on(DeviceKind::cpu)) {
      return backward(s, a);
    }
    no_kernel(norm.op, dy.device());
  };
  node.redo.in = node.keeps_in | (s.bias < 0 ? 0 : bit(s.bias));
  node.redo.out = node.keeps_out;
  node.redo.gives = bit(s.y);
  node.redo.flops = 3.0 * static_cast<double>(shape.numel());
  node.redo.body = [s, norm](const ForwardArgs& a) {
    const Tensor y = at(a.out, s.y);
    if (y.on(DeviceKind::cpu)) {
      return redo(s, a);
    }
    no_kernel(norm.op, y.device());
  };
  const ResidualNorm result{s.sum < 0 ? Value{} : node.out[static_cast<std::size_t>(s.sum)],
                            node.out[static_cast<std::size_t>(s.y)]};
  graph.add_node(std::move(node));
  return result;
}

}  // namespace

Value layer_norm(Graph& graph, Value x, Value weight, Value bias, float eps) {
  return record(graph, layer("layer_norm", eps), x, {}, weight, bias).normed;
}

Value rms_norm(Graph& graph, Value x, Value weight, float eps) {
  return record(graph, rms("rms_norm", eps), x, {}, weight, {}).normed;
}

ResidualNorm residual_layer_norm(
    Graph& graph, Value x, Value branch, float rate, Value weight, Value bias, float eps) {
  if (rate > 0.f) {
    const Value sum = residual_dropout(graph, x, branch, rate);
    return {sum, layer_norm(graph, sum, weight, bias, eps)};
  }
  return record(graph, layer("residual_layer_norm", eps), x, branch, weight, bias);
}

ResidualNorm residual_rms_norm(
    Graph& graph, Value x, Value branch, float rate, Value weight, float eps) {
  if (rate > 0.f) {
    const Value sum = residual_dropout(graph, x, branch, rate);
    return {sum, rms_norm(graph, sum, weight, eps)};
  }
  return record(graph, rms("residual_rms_norm", eps), x, branch, weight, {});
}

}  // namespace strata
