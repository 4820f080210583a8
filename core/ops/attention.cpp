#include "core/ops/attention.h"

#include <numeric>

#include <fmt/format.h>

#include "core/cpu/attention.h"
#include "core/error.h"
#include "core/ops/checks.h"
#include "core/parallel_for.h"

namespace strata {

namespace {

/// A document starts at or before each of its positions.
void check_documents(const Tensor& documents, std::int64_t B, std::int64_t T) {
  check_indices(documents, {"attention", "document start", B, T, 0, T, Errc::internal});
  const std::int32_t* const start = documents.data<std::int32_t>();
  for (std::int64_t i = 0; i < documents.numel(); ++i) {
    if (start[i] > i % T) {
      throw Error(
          Errc::internal,
          fmt::format(
              "attention: a document start at or before place {} needed, got {}", i % T, start[i]));
    }
  }
}

cpu::AttentionDims check_operands(
    const Graph& graph, Value q, Value k, Value v, std::int64_t H, std::int64_t K) {
  for (const Value x : {q, k, v}) {
    check_activation(graph, "attention", x, Columns::allowed);
  }
  const std::int64_t B = graph.B(), T = graph.T(), width = graph.shape(q).back();
  const bool heads = H > 0 && K > 0 && H % K == 0 && width % H == 0;
  const std::int64_t D = heads ? width / H : 0;
  check_shapes(
      graph,
      "attention",
      heads && graph.shape(q) == Shape{B, T, H * D} && graph.shape(k) == Shape{B, T, K * D} &&
          graph.shape(v) == Shape{B, T, K * D},
      fmt::format(
          "q ({0}, {1}, {2} * D), k and v ({0}, {1}, {3} * D) with whole groups", B, T, H, K),
      {q, k, v});
  return {B, T, H, K, D, thread_count()};
}

}  // namespace

Value attention(Graph& graph, Value q, Value k, Value v, std::int64_t H, std::int64_t K) {
  const cpu::AttentionDims dims = check_operands(graph, q, k, v, H, K);
  const Value y = graph.add_result(graph.dtype(), graph.shape(q));
  const Value lse = add_statistic(graph, {dims.B, H, dims.T}, "attention", "lse");
  Node node;
  node.op = "attention";
  node.in = {q, k, v};
  node.out = {y, lse};
  node.keeps_in = bit(0) | bit(1) | bit(2);
  node.keeps_out = bit(0) | bit(1);
  node.exponents_in = bit(0) | bit(1);  // probabilities are exp(q k - lse)
  node.forward_scratch_bytes = cpu::attention_forward_scratch_bytes(dims);
  node.backward_scratch_bytes = cpu::attention_backward_scratch_bytes(dims);
  // Two products over the causal half of (T, T).
  node.flops = 2.0 * static_cast<double>(dims.B * H * dims.D) * static_cast<double>(dims.T) *
               static_cast<double>(dims.T + 1);
  node.forward = [dims](const ForwardArgs& a) {
    const Tensor& documents = a.run.batch->documents;
    check_documents(documents, dims.B, dims.T);
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::attention_forward(
          a.out[0], a.out[1], a.in[0], a.in[1], a.in[2], documents, dims, a.scratch);
    }
    no_kernel("attention", a.in[0].device());
  };
  node.backward = [dims](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (dy.on(DeviceKind::cpu)) {
      return cpu::attention_backward(a.grad_in[0],
                                     a.grad_in[1],
                                     a.grad_in[2],
                                     dy,
                                     {a.in[0], a.in[1], a.in[2], a.out[0], a.out[1]},
                                     a.run.batch->documents,
                                     dims,
                                     a.scratch);
    }
    no_kernel("attention", dy.device());
  };
  graph.add_node(std::move(node));
  return y;
}

std::vector<Value> split(Graph& graph, Value x, std::span<const std::int64_t> widths) {
  check_activation(graph, "split", x);
  check_shapes(
      graph,
      "split",
      std::accumulate(widths.begin(), widths.end(), std::int64_t{0}) == graph.shape(x).back(),
      "x (..., sum of the widths)",
      {x});
  std::vector<Value> parts;
  std::int64_t first = 0;
  for (const std::int64_t width : widths) {
    parts.push_back(graph.add_columns(x, first, width));
    first += width;
  }
  return parts;
}

}  // namespace strata
