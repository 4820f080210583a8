#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/compress/activation_codec.h"
#include "core/graph.h"
#include "core/offsets.h"
#include "core/param.h"

namespace strata {

/// A parameter of another block that this block uses: a tied head borrows the embedding table.
struct BorrowedParam {
  int block = 0;
  int param = 0;
  Shape shape;  // of the parameter
};
/// A matrix W (a, b) that is kept as two parameters of a block: W = left (a, R) * right (R, b).
struct FactorPair {
  int left = 0, right = 0;  // indices into BlockSpec::params
};
struct BlockSpec {
  std::string name;               // "h.3"
  std::vector<ParamSpec> params;  // order = layout in the weights pack
  std::vector<BorrowedParam> borrows;
  std::vector<FactorPair> factors = {};
};

/// One stage of a model: embedding, decoder block, or final norm and loss. Stateless; all bytes
/// come through the packs of the program.
class Block {
 public:
  virtual ~Block() = default;
  virtual const BlockSpec& spec() const = 0;
  /// Blocks with equal kinds record equal graphs and may share one.
  virtual std::string kind() const = 0;
  /// Records the forward. x: (B, T, C), absent for the embedding; params: own, then borrowed.
  /// Returns the block's output (B, T, C), or nothing for the loss block. `logits_only`: the last
  /// block ends in logits (B, T, V) f32 instead of the loss.
  virtual Value build(Graph& graph,
                      Value x,
                      std::span<const Value> params,
                      bool logits_only) const = 0;
};

/// Static bytes of a recorded graph: where each value lives in each phase. Made once per (kind,
/// shape). With a lossy codec, what would be saved is saved in its codes where some node reads it
/// as an operand and none takes its exponential (Node::exponents_in); statistics, which only their
/// own node's backward reads, stay exact. Forward itself computes with exact values; backward reads
/// the decoded ones, and a recompute writes the same codes as forward.
class BlockProgram {
 public:
  enum class Use : std::uint8_t { train, evaluate, logits };
  /// What backward finds in the saved pack.
  enum class Keep : std::uint8_t {
    all,         // every value that it reads
    products,    // of these, what no node can redo; the rest is made again in workspace, each value
                 // right before the node whose backward reads it first
    before_mlp,  // products but those between the norm that follows attention and the block's end:
                 // the projections of the MLP are made again too
    attention,   // the results of attention and the stream behind it; all else is made again from
                 // them and the block's input
  };
  /// What backward computes gradients of. Without any there is no backward, and nothing is saved
  /// for one.
  struct Gradients {
    bool params = true;    // its own
    bool borrowed = true;  // parameters
    bool input = true;
    friend auto operator<=>(const Gradients&, const Gradients&) = default;
  };
  BlockProgram(const Block& block,
               std::int64_t B,
               std::int64_t T,
               std::int64_t C,
               DType dtype,
               Use use,
               Keep keep,
               Gradients wanted,
               ActivationCodec codec = ActivationCodec::exact);
  /// All gradients.
  BlockProgram(const Block& block,
               std::int64_t B,
               std::int64_t T,
               std::int64_t C,
               DType dtype,
               Use use,
               Keep keep = Keep::all)
      : BlockProgram(block, B, T, C, dtype, use, keep, Gradients()) {}

  const Graph& graph() const { return graph_; }
  std::int64_t saved_bytes() const { return saved_bytes_; }  // saved pack of one micro-batch
  std::int64_t workspace_bytes() const {
    return workspace_bytes_;
  }  // of forward or backward, the larger
  std::int64_t output_bytes() const {
    return output_bytes_;
  }  // boundary pack of the next block; 0: loss
  double forward_flops() const { return flops_; }
  double recompute_flops() const { return recompute_flops_; }  // of a forward without output
  double redo_flops() const { return redo_flops_; }            // of one backward, Keep::products
  ActivationCodec codec() const { return codec_; }
  /// Elements that one forward or recompute encodes and one backward decodes.
  std::int64_t coded_numel() const;
  /// Named activation slots kept for backward, for `plan --explain`.
  struct Slot {
    std::string name;
    std::int64_t size_bytes = 0;
  };
  std::vector<Slot> slots() const;

  struct Bytes {
    std::span<std::byte> input, output;            // boundary in and out; empty where there is none
    std::span<std::byte> input_grad, output_grad;  // backward
    std::span<std::byte> saved, workspace;
    std::span<const Tensor> params;         // own, then borrowed, (dtype)
    std::span<const GradSink> param_grads;  // same order; empty tensors in evaluation
  };
  /// Without an output only what fills the saved pack is computed.
  void forward(const Bytes& bytes, const RunContext& run) const;
  void backward(const Bytes& bytes, const RunContext& run) const;
  bool ends_in_loss() const { return ends_in_loss_; }

 private:
  enum class Region : std::uint8_t { none, input, output, saved, workspace, param };
  struct Place {
    Region region = Region::none;
    std::int64_t offset = 0;
  };
  /// Where backward finds a value.
  enum class Hold : std::uint8_t { nowhere, saved, coded, redone };
  void choose_gradients(std::size_t own_params, Gradients wanted);
  bool wants_gradient(Value v) const;
  /// Whether some operand of the node wants its gradient.
  bool passes_gradient(const Node& node) const;
  bool read_by_backward(const Node& node, Value v) const;
  bool read_by_redo(const Node& node, Value v) const;
  void choose_kept(Keep keep);
  std::vector<bool> may_be_redone(Keep keep) const;
  void schedule_redo(const std::vector<bool>& redoable);
  void choose_coded();
  void choose_recomputed();
  std::int64_t saved_bytes_of(Value v) const;
  Interval made_again_lifetime(Value v) const;
  void place_forward();
  void place_backward();
  Tensor bind(Value v,
              std::span<const Place> places,
              const Bytes& bytes,
              std::span<std::byte> input,
              std::span<std::byte> output) const;
  void bind_values(const Bytes& bytes, std::span<const Place> places) const;
  std::span<std::byte> codes(Value v, const Bytes& bytes) const;
  void encode(const Node& node, const Bytes& bytes, const RunContext& run) const;
  void decode(Value v, const Bytes& bytes, const RunContext& run) const;
  void redo(const Node& node, const Bytes& bytes, const RunContext& run) const;
  GradSink sink(Value v, std::size_t node, const Bytes& bytes) const;
  void run_node_backward(std::size_t node, const Bytes& bytes, const RunContext& run) const;

  Graph graph_;
  Use use_;
  ActivationCodec codec_;
  Value input_, output_;
  bool ends_in_loss_ = false;
  std::vector<Hold> hold_;  // by value
  std::vector<Place> forward_place_, backward_place_, grad_place_;
  /// The output of a recompute, where the node that makes it makes something saved too.
  Place recomputed_output_;
  std::vector<int> first_grad_node_;  // by value: node whose backward contributes first
  std::vector<int> redo_at_;  // by node: before the backward of which one it is redone; -1: never
  std::vector<std::vector<int>> redo_before_;  // the same, by that one; in order
  std::vector<int> decode_at_;  // by value: before the backward of which node; -1: never
  std::vector<std::vector<Value>> decode_before_;  // the same, by node
  std::vector<std::int64_t> codes_at_;             // by value: offset in the saved pack
  std::vector<bool> recomputed_;                   // by node: whether it makes what is saved
  std::vector<std::int64_t> forward_scratch_, backward_scratch_,
      redo_scratch_;  // workspace offsets by node
  std::int64_t saved_bytes_ = 0, workspace_bytes_ = 0, output_bytes_ = 0;
  double flops_ = 0, recompute_flops_ = 0, redo_flops_ = 0;
  // Views of the run under way; members so that a step allocates nothing. Compute thread only.
  mutable std::vector<Tensor> values_;
  mutable std::vector<Tensor> in_, out_, grad_out_;
  mutable std::vector<GradSink> grad_in_;
};

}  // namespace strata
