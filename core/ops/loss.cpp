#include "core/ops/loss.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/cpu/loss.h"
#include "core/cpu/scratch.h"
#include "core/error.h"
#include "core/matmul.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

/// Sizes of the head. M: token rows of the micro-batch.
struct Head {
  std::int64_t M, V, C;
  DType dtype;

  // logits (rows, V) = x (rows, C) * W^T
  MatmulShape logits(std::int64_t rows) const {
    return {rows, V, C, 1, MatmulForm::abt, dtype, DType::f32};
  }
  // dx (rows, C) = dlogits (rows, V) * W
  MatmulShape input_grad(std::int64_t rows) const {
    return {rows, C, V, 1, MatmulForm::ab, dtype, dtype};
  }
  // dW (V, C) = dlogits^T (V, rows) * x (rows, C)
  MatmulShape weight_grad(std::int64_t rows) const {
    return {V, C, rows, 1, MatmulForm::ab, dtype, DType::f32};
  }
  std::int64_t chunk_rows() const { return std::min(M, kLossChunkRows); }
  /// A full chunk and the rest may need different scratch.
  std::int64_t product_bytes(MatmulShape (Head::*shape)(std::int64_t) const) const {
    const std::int64_t rest = M % kLossChunkRows;
    const std::int64_t full = matmul_scratch_bytes((this->*shape)(chunk_rows()));
    return cpu::aligned_bytes(
        rest == 0 ? full : std::max(full, matmul_scratch_bytes((this->*shape)(rest))));
  }
  std::int64_t forward_scratch_bytes() const {
    return cpu::aligned_bytes(chunk_rows() * size_bytes(DType::f64)) +
           cpu::aligned_bytes(chunk_rows() * V * size_bytes(DType::f32)) +
           product_bytes(&Head::logits);
  }
  std::int64_t backward_scratch_bytes() const {
    return cpu::aligned_bytes(chunk_rows() * size_bytes(DType::f64)) +
           cpu::aligned_bytes(chunk_rows() * V * size_bytes(DType::f32)) +
           cpu::aligned_bytes(chunk_rows() * V * size_bytes(dtype)) +
           std::max({product_bytes(&Head::logits),
                     product_bytes(&Head::input_grad),
                     product_bytes(&Head::weight_grad)});
  }
};

double sum_in_order(const double* nats, std::int64_t rows) {
  double sum = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    sum += nats[r];
  }
  return sum;
}

void evaluate(const Head& head, const ForwardArgs& a) {
  const std::int32_t* const targets = a.run.batch->targets.data<std::int32_t>();
  const Tensor x = a.in[0].reshape({head.M, head.C});
  for (std::int64_t begin = 0; begin < head.M; begin += kLossChunkRows) {
    const std::int64_t end = std::min(begin + kLossChunkRows, head.M), rows = end - begin;
    cpu::Scratch scratch(a.scratch);
    auto* const nats = scratch.array<double>(rows);
    const Tensor logits = scratch.tensor(DType::f32, {rows, head.V});
    const MatmulShape shape = head.logits(rows);
    matmul(logits,
           x.rows(begin, end),
           a.in[1],
           shape,
           Accumulate::overwrite,
           scratch.bytes(matmul_scratch_bytes(shape)),
           *a.run.stream);
    cpu::cross_entropy_forward(nats, logits, targets + begin);
    *a.run.loss_sum += sum_in_order(nats, rows);
  }
}

/// Buffers of one chunk of training. Three (rows, V) ones would do; two are enough, since each is
/// dead before the other is written: logits and dlogits are one buffer in f32, and in bf16 the
/// transposed dlogits take the place of the logits.
struct Chunk {
  double* nats;
  Tensor logits;   // (rows, V) f32
  Tensor dlogits;  // (rows, V)
  Tensor turned;   // (V, rows)
  std::span<std::byte> product;

  Chunk(const Head& head, std::int64_t rows, std::span<std::byte> bytes) {
    cpu::Scratch scratch(bytes);
    nats = scratch.array<double>(rows);
    logits = scratch.tensor(DType::f32, {rows, head.V});
    const Tensor other = scratch.tensor(head.dtype, {rows, head.V});
    const bool f32 = head.dtype == DType::f32;
    dlogits = f32 ? logits : other;
    turned = Tensor(f32 ? other.bytes() : logits.bytes(), head.dtype, {head.V, rows});
    product = scratch.bytes(std::max({matmul_scratch_bytes(head.logits(rows)),
                                      matmul_scratch_bytes(head.input_grad(rows)),
                                      matmul_scratch_bytes(head.weight_grad(rows))}));
  }
};

void train_chunk(const Head& head, const BackwardArgs& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = end - begin;
  const Chunk chunk(head, rows, a.scratch);
  const Tensor x = a.in[0].reshape({head.M, head.C}).rows(begin, end);
  Stream& stream = *a.run.stream;
  matmul(chunk.logits, x, a.in[1], head.logits(rows), Accumulate::overwrite, chunk.product, stream);
  cpu::cross_entropy_backward(chunk.nats,
                              chunk.dlogits,
                              chunk.logits,
                              a.run.batch->targets.data<std::int32_t>() + begin,
                              static_cast<float>(a.run.loss_scale));
  *a.run.loss_sum += sum_in_order(chunk.nats, rows);
  if (const GradSink& dx = a.grad_in[0]) {
    const Tensor to = dx.tensor.reshape({head.M, head.C}).rows(begin, end);
    matmul(to, chunk.dlogits, a.in[1], head.input_grad(rows), dx.mode, chunk.product, stream);
  }
  if (const GradSink& dw = a.grad_in[1]) {
    transpose(chunk.turned, chunk.dlogits, rows, head.V, stream);
    const Accumulate mode = begin == 0 ? dw.mode : Accumulate::add;
    matmul(dw.tensor, chunk.turned, x, head.weight_grad(rows), mode, chunk.product, stream);
  }
}

Head check_operands(const Graph& graph, std::string_view op, Value x, Value weight) {
  check_activation(graph, op, x);
  check_param(graph, op, weight);
  const Shape &xs = graph.shape(x), &ws = graph.shape(weight);
  check_shapes(graph,
               op,
               ws.rank() == 2 && xs == Shape{graph.B(), graph.T(), ws[1]},
               fmt::format("x ({}, {}, C) beside weight (V, C)", graph.B(), graph.T()),
               {x, weight});
  return {graph.B() * graph.T(), ws[0], ws[1], graph.dtype()};
}

double product_flops(const Head& head) {
  return 2.0 * static_cast<double>(head.M) * static_cast<double>(head.V) *
         static_cast<double>(head.C);
}

}  // namespace

void linear_cross_entropy(Graph& graph, Value x, Value weight) {
  const Head head = check_operands(graph, "linear_cross_entropy", x, weight);
  Node node;
  node.op = "linear_cross_entropy";
  node.in = {x, weight};
  node.keeps_in = bit(0) | bit(1);
  node.is_loss = true;
  node.forward_scratch_bytes = head.forward_scratch_bytes();
  node.backward_scratch_bytes = head.backward_scratch_bytes();
  node.flops = product_flops(head);
  const IndexRange targets{"loss", "target", graph.B(), graph.T(), kMasked, head.V, Errc::data};
  node.forward = [head, targets](const ForwardArgs& a) {
    if (!a.in[0].on(DeviceKind::cpu)) {
      no_kernel("linear_cross_entropy", a.in[0].device());
    }
    check_indices(a.run.batch->targets, targets);
    evaluate(head, a);
  };
  node.backward = [head, targets](const BackwardArgs& a) {
    if (!a.in[0].on(DeviceKind::cpu)) {
      no_kernel("linear_cross_entropy", a.in[0].device());
    }
    check_indices(a.run.batch->targets, targets);
    for (std::int64_t begin = 0; begin < head.M; begin += kLossChunkRows) {
      train_chunk(head, a, begin, std::min(begin + kLossChunkRows, head.M));
    }
  };
  graph.add_node(std::move(node));
}

Value logits(Graph& graph, Value x, Value weight) {
  const Head head = check_operands(graph, "logits", x, weight);
  const Value y = graph.add_result(DType::f32, {graph.B(), graph.T(), head.V}, "logits");
  Node node;
  node.op = "logits";
  node.in = {x, weight};
  node.out = {y};
  node.forward_scratch_bytes = matmul_scratch_bytes(head.logits(head.M));
  node.flops = product_flops(head);
  node.forward = [head](const ForwardArgs& a) {
    if (!a.in[0].on(DeviceKind::cpu)) {
      no_kernel("logits", a.in[0].device());
    }
    matmul(a.out[0],
           a.in[0],
           a.in[1],
           head.logits(head.M),
           Accumulate::overwrite,
           a.scratch,
           *a.run.stream);
  };
  node.backward = [](const BackwardArgs&) {
    throw Error(Errc::internal, "logits: recorded for generation, no gradient passes through");
  };
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
