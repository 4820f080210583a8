#include "core/ops/embedding.h"

#include <fmt/format.h>

#include "core/cpu/embedding.h"
#include "core/cpu/rows.h"
#include "core/error.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

/// Rows of positions beside (V, C) or (B, T, C).
void check_positions(const Graph& graph, std::string_view op, Value beside, Value table) {
  check_param(graph, op, table);
  const Shape& shape = graph.shape(table);
  check_shapes(graph,
               op,
               shape.rank() == 2 && shape[1] == graph.shape(beside).back() && shape[0] >= graph.T(),
               fmt::format("positions_table (at least {}, C) beside (..., C)", graph.T()),
               {table, beside});
}

IndexRange position_range(const Graph& graph, std::string_view op, std::int64_t places) {
  return {op, "position", graph.B(), graph.T(), 0, places, Errc::internal};
}

}  // namespace

Value embedding(Graph& graph, Value table, Value positions_table) {
  check_param(graph, "embedding", table);
  check_shapes(graph, "embedding", graph.shape(table).rank() == 2, "table (V, C)", {table});
  const std::int64_t V = graph.shape(table)[0], C = graph.shape(table)[1];
  Node node;
  node.op = "embedding";
  node.in = {table};
  std::int64_t places = 0;
  if (positions_table) {
    check_positions(graph, "embedding", table, positions_table);
    node.in.push_back(positions_table);
    places = graph.shape(positions_table)[0];
  }
  const Value y = graph.add_result(graph.dtype(), {graph.B(), graph.T(), C});
  node.out = {y};
  node.flops = positions_table ? static_cast<double>(graph.shape(y).numel()) : 0.0;
  const IndexRange tokens{"embedding", "token", graph.B(), graph.T(), 0, V, Errc::data};
  const IndexRange positions = position_range(graph, "embedding", places);
  node.forward = [tokens, positions](const ForwardArgs& a) {
    const MicroBatch& batch = *a.run.batch;
    check_indices(batch.tokens, tokens);
    const Tensor positions_rows = a.in.size() > 1 ? a.in[1] : Tensor();
    if (positions_rows) {
      check_indices(batch.positions, positions);
    }
    if (a.out[0].on(DeviceKind::cpu)) {
      return cpu::embedding_forward(
          a.out[0], a.in[0], positions_rows, batch.tokens, batch.positions);
    }
    no_kernel("embedding", a.out[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("embedding", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::embedding_backward(a.grad_in[0], dy, a.run.batch->tokens);
    }
    if (a.grad_in.size() > 1 && a.grad_in[1]) {
      cpu::embedding_backward(a.grad_in[1], dy, a.run.batch->positions);
    }
  };
  graph.add_node(std::move(node));
  return y;
}

Value add_positions(Graph& graph, Value x, Value positions_table) {
  check_activation(graph, "add_positions", x);
  check_positions(graph, "add_positions", x, positions_table);
  const Value y = graph.add_result(graph.dtype(), graph.shape(x));
  Node node;
  node.op = "add_positions";
  node.in = {x, positions_table};
  node.out = {y};
  node.flops = static_cast<double>(graph.shape(y).numel());
  const IndexRange range = position_range(graph, "add_positions", graph.shape(positions_table)[0]);
  node.forward = [range](const ForwardArgs& a) {
    check_indices(a.run.batch->positions, range);
    if (a.out[0].on(DeviceKind::cpu)) {
      return cpu::add_rows(a.out[0], a.in[0], a.in[1], a.run.batch->positions);
    }
    no_kernel("add_positions", a.out[0].device());
  };
  node.backward = [](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("add_positions", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::pass_gradient(a.grad_in[0], dy);
    }
    if (a.grad_in[1]) {
      cpu::embedding_backward(a.grad_in[1], dy, a.run.batch->positions);
    }
  };
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
