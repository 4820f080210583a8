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

/// Sizes of the head. M: token rows of the micro-batch. Rows are taken kLossRows at a time, tokens
/// of the vocabulary kLossColumns at a time: products of these sizes stay near the caches, those
/// over all of a large vocabulary do not, in one direction or the other.
struct Head {
  std::int64_t M, V, C;
  DType dtype;

  // logits (rows, width) = x (rows, C) * W^T
  MatmulShape logits(std::int64_t rows, std::int64_t width) const {
    return {rows, width, C, 1, MatmulForm::abt, dtype, DType::f32};
  }
  // dx (rows, C) = sum over chunks of dlogits (rows, width) * W
  MatmulShape input_grad(std::int64_t rows, std::int64_t width) const {
    return {rows, C, width, 1, MatmulForm::ab, dtype, DType::f32};
  }
  /// Whether d logits are written a second time, transposed, while they are at hand.
  bool turns() const { return !matmul_reads_transposed(dtype); }
  // dW (width, C) = dlogits^T (width, rows) * x (rows, C)
  MatmulShape weight_grad(std::int64_t rows, std::int64_t width) const {
    const MatmulForm form = turns() ? MatmulForm::ab : MatmulForm::atb;
    return {width, C, rows, 1, form, dtype, DType::f32};
  }
  std::int64_t chunk_rows() const { return std::min(M, kLossRows); }
  std::int64_t chunk_columns() const { return std::min(V, kLossColumns); }

  using Product = MatmulShape (Head::*)(std::int64_t, std::int64_t) const;
  /// Of whole chunks and of the rest may differ.
  std::int64_t product_bytes(Product shape) const {
    std::int64_t most = 0;
    for (const std::int64_t rows : {chunk_rows(), M % kLossRows}) {
      for (const std::int64_t width : {chunk_columns(), V % kLossColumns}) {
        if (rows > 0 && width > 0) {
          most = std::max(most, matmul_scratch_bytes((this->*shape)(rows, width)));
        }
      }
    }
    return cpu::aligned_bytes(most);
  }
  std::int64_t row_bytes() const {
    return cpu::aligned_bytes(chunk_rows() * size_bytes(DType::f64)) +
           3 * cpu::aligned_bytes(chunk_rows() * size_bytes(DType::f32));
  }
  std::int64_t forward_scratch_bytes() const {
    return row_bytes() +
           cpu::aligned_bytes(chunk_rows() * chunk_columns() * size_bytes(DType::f32)) +
           product_bytes(&Head::logits);
  }
  std::int64_t backward_scratch_bytes() const {
    const std::int64_t chunk = chunk_rows() * chunk_columns();
    const bool rounds = dtype != DType::f32;
    return row_bytes() + cpu::aligned_bytes(chunk_rows() * V * size_bytes(DType::f32)) +
           ((rounds ? 1 : 0) + (turns() ? 1 : 0)) * cpu::aligned_bytes(chunk * size_bytes(dtype)) +
           (rounds ? cpu::aligned_bytes(chunk_rows() * C * size_bytes(DType::f32)) : 0) +
           std::max({product_bytes(&Head::logits),
                     product_bytes(&Head::input_grad),
                     product_bytes(&Head::weight_grad)});
  }
};

cpu::LossRows rows_at(cpu::Scratch& scratch, const std::int32_t* targets, std::int64_t count) {
  return {.count = count,
          .targets = targets,
          .top = scratch.array<float>(count),
          .sum = scratch.array<float>(count),
          .target_logit = scratch.array<float>(count),
          .nats = scratch.array<double>(count)};
}

double sum_in_order(const cpu::LossRows& rows) {
  double sum = 0;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    sum += rows.nats[r];
  }
  return sum;
}

/// Calls body(first, width) for each chunk of the vocabulary.
template <class Body>
void for_columns(const Head& head, const Body& body) {
  for (std::int64_t first = 0; first < head.V; first += kLossColumns) {
    body(first, std::min(kLossColumns, head.V - first));
  }
}

void evaluate(const Head& head, const ForwardArgs& a) {
  const std::int32_t* const targets = a.run.batch->targets.data<std::int32_t>();
  const Tensor x = a.in[0].reshape({head.M, head.C});
  for (std::int64_t begin = 0; begin < head.M; begin += kLossRows) {
    const std::int64_t count = std::min(kLossRows, head.M - begin);
    cpu::Scratch scratch(a.scratch);
    const cpu::LossRows rows = rows_at(scratch, targets + begin, count);
    const auto chunk = scratch.bytes(count * head.chunk_columns() * size_bytes(DType::f32));
    const auto product = scratch.bytes(head.product_bytes(&Head::logits));
    start_loss(rows);
    for_columns(head, [&](std::int64_t first, std::int64_t width) {
      const Tensor logits(chunk.data(), DType::f32, {count, width});
      matmul(logits,
             x.rows(begin, begin + count),
             a.in[1].rows(first, first + width),
             head.logits(count, width),
             Accumulate::overwrite,
             product,
             *a.run.stream);
      add_to_loss(rows, logits, first);
    });
    finish_loss(rows);
    *a.run.loss_sum += sum_in_order(rows);
  }
}

/// Training of up to kLossRows rows. All their logits exist at once, chunk after chunk of columns;
/// of their gradient, one chunk and, where products need it, its transposed copy.
class RowsTraining {
 public:
  RowsTraining(const Head& head, const BackwardArgs& a, std::int64_t begin, std::int64_t count)
      : head_(head),
        args_(a),
        begin_(begin),
        count_(count),
        x_(a.in[0].reshape({head.M, head.C}).rows(begin, begin + count)),
        scratch_(a.scratch),
        rows_(rows_at(scratch_, a.run.batch->targets.data<std::int32_t>() + begin, count)),
        logits_(scratch_.array<float>(count * head.V)) {
    const std::int64_t chunk_bytes = count * head.chunk_columns() * size_bytes(head.dtype);
    if (head.turns()) {
      turned_ = scratch_.bytes(chunk_bytes).data();
    }
    if (rounds()) {
      dlogits_ = scratch_.bytes(chunk_bytes).data();
      dx_ = scratch_.tensor(DType::f32, {count, head.C});
    }
    product_ = scratch_.bytes(std::max({head.product_bytes(&Head::logits),
                                        head.product_bytes(&Head::input_grad),
                                        head.product_bytes(&Head::weight_grad)}));
  }

  double run() {
    start_loss(rows_);
    for_columns(head_, [&](std::int64_t first, std::int64_t width) {
      multiply(logits(first, width),
               x_,
               weight(first, width),
               head_.logits(count_, width),
               Accumulate::overwrite);
      add_to_loss(rows_, logits(first, width), first);
    });
    finish_loss(rows_);
    for_columns(head_, [&](std::int64_t first, std::int64_t width) { gradients(first, width); });
    if (rounds() && args_.grad_in[0]) {
      cpu::round_into({input_grad_rows(), args_.grad_in[0].mode}, dx_);
    }
    return sum_in_order(rows_);
  }

 private:
  bool rounds() const { return head_.dtype != DType::f32; }
  Tensor logits(std::int64_t first, std::int64_t width) const {
    return {reinterpret_cast<std::byte*>(logits_ + first * count_), DType::f32, {count_, width}};
  }
  Tensor weight(std::int64_t first, std::int64_t width) const {
    return args_.in[1].rows(first, first + width);
  }
  Tensor input_grad_rows() const {
    return args_.grad_in[0].tensor.reshape({head_.M, head_.C}).rows(begin_, begin_ + count_);
  }
  void multiply(const Tensor& C,
                const Tensor& A,
                const Tensor& B,
                const MatmulShape& shape,
                Accumulate mode) const {
    matmul(C, A, B, shape, mode, product_, *args_.run.stream);
  }

  void gradients(std::int64_t first, std::int64_t width) const {
    const GradSink &dx = args_.grad_in[0], &dw = args_.grad_in[1];
    const Tensor dlogits =
        rounds() ? Tensor(dlogits_, head_.dtype, {count_, width}) : logits(first, width);
    const Tensor turned =
        dw && turned_ != nullptr ? Tensor(turned_, head_.dtype, {width, count_}) : Tensor();
    cpu::loss_gradient(dlogits,
                       turned,
                       logits(first, width),
                       first,
                       rows_,
                       static_cast<float>(args_.run.loss_scale));
    if (dx) {
      // A sum over chunks in bf16 would lose what f32 keeps: it is rounded once, at the end.
      const Accumulate start = rounds() ? Accumulate::overwrite : dx.mode;
      multiply(rounds() ? dx_ : input_grad_rows(),
               dlogits,
               weight(first, width),
               head_.input_grad(count_, width),
               first == 0 ? start : Accumulate::add);
    }
    if (dw) {
      multiply(dw.tensor.rows(first, first + width),
               turned ? turned : dlogits,
               x_,
               head_.weight_grad(count_, width),
               begin_ == 0 ? dw.mode : Accumulate::add);
    }
  }

  const Head& head_;
  const BackwardArgs& args_;
  std::int64_t begin_, count_;
  Tensor x_;
  cpu::Scratch scratch_;
  cpu::LossRows rows_;
  float* logits_;
  std::byte *turned_ = nullptr, *dlogits_ = nullptr;
  Tensor dx_;
  std::span<std::byte> product_;
};

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
    for (std::int64_t begin = 0; begin < head.M; begin += kLossRows) {
      *a.run.loss_sum += RowsTraining(head, a, begin, std::min(kLossRows, head.M - begin)).run();
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
  node.forward_scratch_bytes = matmul_scratch_bytes(head.logits(head.M, head.V));
  node.flops = product_flops(head);
  node.forward = [head](const ForwardArgs& a) {
    if (!a.in[0].on(DeviceKind::cpu)) {
      no_kernel("logits", a.in[0].device());
    }
    matmul(a.out[0],
           a.in[0],
           a.in[1],
           head.logits(head.M, head.V),
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
