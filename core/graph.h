#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/batch.h"
#include "core/param.h"
#include "core/program.h"
#include "core/runtime.h"
#include "core/span_log.h"

namespace strata {

/// A value inside a block, by index; bytes are bound when the block runs.
struct Value {
  int id = -1;
  explicit operator bool() const { return id >= 0; }
  friend bool operator==(Value, Value) = default;
};

/// What every kernel of a block run may know besides its operands.
struct RunContext {
  const MicroBatch* batch = nullptr;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  int block = 0;          // keys activation randomness together with the node's site
  bool training = false;  // dropout on
  double loss_scale =
      1.0;  // upstream gradient of each token's loss: 1 / unmasked tokens of the step
  double* loss_sum = nullptr;  // where the loss node adds the micro-batch's sum, nats
  Stream* stream = nullptr;
  int micro_batch = 0;       // names spans
  SpanLog* spans = nullptr;  // where ops leave their times; absent: nowhere
};

/// Where the gradient of one operand goes. Empty: nobody wants it.
struct GradSink {
  Tensor tensor;
  Accumulate mode = Accumulate::overwrite;
  explicit operator bool() const { return static_cast<bool>(tensor); }
};

struct ForwardArgs {
  std::span<const Tensor> in;
  std::span<const Tensor> out;
  std::span<std::byte> scratch;
  const RunContext& run;
};
struct BackwardArgs {
  std::span<const Tensor> in;         // only operands named in Node::keeps_in have data
  std::span<const Tensor> out;        // only results named in Node::keeps_out have data
  std::span<const Tensor> grad_out;   // one per result
  std::span<const GradSink> grad_in;  // one per operand
  std::span<std::byte> scratch;
  const RunContext& run;
};

/// How a node makes results again while backward runs, so that they need not be saved. From the
/// same operands it gives the same bits as forward.
struct Redo {
  std::uint32_t in = 0, out = 0;  // bit i: reads in[i], out[i]
  std::uint32_t gives = 0;        // bit i: writes out[i]
  double flops = 0;
  std::function<void(const ForwardArgs&)> body;  // empty: the node cannot be redone
  std::int64_t scratch_bytes = 0;
  bool projection = false;  // of more than one pass over memory: only where BlockProgram::Keep says
};

/// One recorded operation. Bodies hold settings only, never tensors, so one graph serves every
/// block of a kind, every micro-batch and every recompute.
struct Node {
  std::string_view op;
  std::vector<Value> in, out;
  std::uint32_t keeps_in = 0;          // bit i: backward reads in[i] again
  std::uint32_t keeps_out = 0;         // bit i: backward reads out[i] again
  std::uint32_t keeps_for_params = 0;  // of keeps_in: what only gradients of parameters read
  /// Of keeps_in: what backward takes exponentials of beside a statistic of the exact values, so
  /// that a small error would become a factor. No lossy codec is given these.
  std::uint32_t exponents_in = 0;
  std::int64_t forward_scratch_bytes = 0, backward_scratch_bytes = 0;
  double flops = 0;  // of forward
  std::function<void(const ForwardArgs&)> forward;
  std::function<void(const BackwardArgs&)> backward;
  Redo redo = {};
  /// The loss: in training its backward alone runs; it computes the loss, the gradients and adds to
  /// loss_sum.
  bool is_loss = false;
};

enum class ValueKind : std::uint8_t { input, param, result, columns };
struct ValueInfo {
  ValueKind kind = ValueKind::result;
  int param = -1;                 // index into params, then borrows, of the block
  Value of = {};                  // columns: the result that they belong to
  std::int64_t first_column = 0;  // columns: of that result's last axis
  DType dtype = DType::f32;
  Shape shape;
  std::string name;  // activation slot name: "norm1", "qkv"; empty: the op's name and the id
  bool wants_grad = true;
};

/// The forward of a block for one shape, recorded once: values and nodes in order.
/// Ops (core/ops/*.h) are free functions that check shapes and append a node.
class Graph {
 public:
  /// B sequences of T tokens; `dtype` of activations and working weights: f32 or bf16.
  Graph(std::int64_t B, std::int64_t T, DType dtype) : B_(B), T_(T), dtype_(dtype) {}
  std::int64_t B() const { return B_; }
  std::int64_t T() const { return T_; }
  DType dtype() const { return dtype_; }

  Value add_input(Shape shape);                    // the block's input, (B, T, C)
  Value add_param(int index, const Shape& shape);  // in declaration order, borrows last
  Value add_result(DType dtype, Shape shape, std::string name = {});
  /// Columns [first, first + width) of the last axis of a result: a view, no bytes of its own. A
  /// result that is seen through columns is read and given gradients through them alone, and they
  /// cover it once.
  Value add_columns(Value of, std::int64_t first, std::int64_t width);
  void add_node(Node node);
  /// A number for each random site of a block, in order of calls.
  int next_site() { return sites_++; }

  const ValueInfo& info(Value v) const { return values_[static_cast<std::size_t>(v.id)]; }
  ValueInfo& info(Value v) { return values_[static_cast<std::size_t>(v.id)]; }
  const Shape& shape(Value v) const { return info(v).shape; }
  std::span<const ValueInfo> values() const { return values_; }
  std::span<const Node> nodes() const { return nodes_; }

 private:
  std::int64_t B_, T_;
  DType dtype_;
  int sites_ = 0;
  std::vector<ValueInfo> values_;
  std::vector<Node> nodes_;
};

}  // namespace strata
