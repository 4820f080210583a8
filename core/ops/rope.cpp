#include "core/ops/rope.h"

#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "core/cpu/rope.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

using Table = std::shared_ptr<const std::vector<float>>;

/// (places, 2, D / 2): cosines, then sines. Angles in f64, since f32 loses whole turns at far
/// positions.
Table make_table(std::int64_t places, std::int64_t D, double theta) {
  std::vector<float> values(static_cast<std::size_t>(places * D));
  for (std::int64_t t = 0; t < places; ++t) {
    for (std::int64_t i = 0; i < D / 2; ++i) {
      const double angle = static_cast<double>(t) *
                           std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
      values[static_cast<std::size_t>(t * D + i)] = static_cast<float>(std::cos(angle));
      values[static_cast<std::size_t>(t * D + D / 2 + i)] = static_cast<float>(std::sin(angle));
    }
  }
  return std::make_shared<const std::vector<float>>(std::move(values));
}

}  // namespace

Value rope(Graph& graph, Value x, std::int64_t D, double theta, RopeStyle style) {
  check_activation(graph, "rope", x);
  const Shape shape = graph.shape(x);
  check_shapes(
      graph,
      "rope",
      D > 0 && D % 2 == 0 && shape.back() % D == 0 &&
          shape.numel() == graph.B() * graph.T() * shape.back(),
      fmt::format("x ({}, {}, heads * {}) with an even head size", graph.B(), graph.T(), D),
      {x});
  const Value y = graph.add_result(graph.dtype(), shape);
  Node node;
  node.op = "rope";
  node.in = {x};
  node.out = {y};
  node.flops = 3.0 * static_cast<double>(shape.numel());
  const Table values = make_table(graph.T(), D, theta);
  const IndexRange range{"rope", "position", graph.B(), graph.T(), 0, graph.T(), Errc::internal};
  node.forward = [values, D, style, range](const ForwardArgs& a) {
    const Tensor& positions = a.run.batch->positions;
    check_indices(positions, range);
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::rope_forward(a.out[0], a.in[0], positions, {values->data(), D, style});
    }
    no_kernel("rope", a.in[0].device());
  };
  node.redo = {.in = bit(0),
               .gives = bit(0),
               .flops = node.flops,
               .body = node.forward,
               .projection = true};  // a part of what makes queries and keys
  node.backward = [values, D, style](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("rope", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::rope_backward(a.grad_in[0], dy, a.run.batch->positions, {values->data(), D, style});
    }
  };
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
