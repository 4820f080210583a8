// What is saved in codes: written right after the node that makes it, decoded right before the
// backward that reads it first.
#include <algorithm>

#include "core/block.h"
#include "core/error.h"

namespace strata {
namespace {

constexpr std::int64_t kAlign = 64;

std::size_t index(Value v) {
  return static_cast<std::size_t>(v.id);
}

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

/// Statistics of a node are read by no node but, backwards, itself.
bool may_lose_digits(const Graph& graph, Value v) {
  bool operand = false, exponent = false;
  for (const Node& node : graph.nodes()) {
    for (std::size_t i = 0; i < node.in.size(); ++i) {
      const ValueInfo& info = graph.info(node.in[i]);
      const bool shows = (info.kind == ValueKind::columns ? info.of : node.in[i]) == v;
      operand = operand || shows;
      exponent = exponent || (shows && (node.exponents_in >> i & 1u) != 0);
    }
  }
  const DType dtype = graph.info(v).dtype;
  return operand && !exponent && (dtype == DType::f32 || dtype == DType::bf16);
}

}  // namespace

std::int64_t BlockProgram::saved_bytes_of(Value v) const {
  const ValueInfo& info = graph_.info(v);
  const std::int64_t numel = info.shape.numel();
  return aligned(hold_[index(v)] == Hold::coded ? coded_bytes(codec_, numel)
                                                : numel * size_bytes(info.dtype));
}

void BlockProgram::choose_coded() {
  const auto nodes = graph_.nodes();
  decode_at_.assign(hold_.size(), -1);
  decode_before_.assign(nodes.size(), {});
  codes_at_.assign(hold_.size(), -1);
  if (!is_lossy(codec_)) {
    return;
  }
  for (int id = 0; id < static_cast<int>(hold_.size()); ++id) {
    const Value v{id};
    if (hold_[index(v)] != Hold::saved || !may_lose_digits(graph_, v) ||
        aligned(coded_bytes(codec_, graph_.shape(v).numel())) >= saved_bytes_of(v)) {
      continue;
    }
    hold_[index(v)] = Hold::coded;
    int& at = decode_at_[index(v)];
    for (int n = 0; n < static_cast<int>(nodes.size()); ++n) {
      const Node& node = nodes[static_cast<std::size_t>(n)];
      const int redone = redo_at_[static_cast<std::size_t>(n)];
      at = std::max({at, read_by_backward(node, v) ? n : -1, read_by_redo(node, v) ? redone : -1});
    }
    STRATA_ASSERT(at >= 0);
    decode_before_[static_cast<std::size_t>(at)].push_back(v);
  }
}

std::int64_t BlockProgram::coded_numel() const {
  std::int64_t numel = 0;
  for (std::size_t id = 0; id < hold_.size(); ++id) {
    numel += hold_[id] == Hold::coded ? graph_.values()[id].shape.numel() : 0;
  }
  return numel;
}

std::span<std::byte> BlockProgram::codes(Value v, const Bytes& bytes) const {
  return bytes.saved.subspan(
      static_cast<std::size_t>(codes_at_[index(v)]),
      static_cast<std::size_t>(coded_bytes(codec_, graph_.shape(v).numel())));
}

void BlockProgram::encode(const Node& node, const Bytes& bytes, const RunContext& run) const {
  for (const Value v : node.out) {
    if (hold_[index(v)] != Hold::coded) {
      continue;
    }
    const SpanTimer timer(run.spans,
                          {.name = to_string(codec_),
                           .direction = "encode",
                           .block = run.block,
                           .micro_batch = run.micro_batch});
    // Of the sample, not of the micro-batch: an element's rounding goes with its place in the data.
    const std::int64_t samples = run.batch == nullptr ? 0 : run.batch->first_sample;
    const std::int64_t first = samples * (graph_.shape(v).numel() / graph_.B());
    // Tensor ids, of which weights are rounded by, have no sign.
    const std::uint64_t site =
        1ull << 63 | static_cast<std::uint64_t>(run.block) << 32 | static_cast<std::uint64_t>(v.id);
    const RandomKey key{run.seed, RandomUse::rounding, static_cast<std::uint64_t>(run.step), site};
    encode_activation(codes(v, bytes), values_[index(v)], codec_, key, first);
  }
}

void BlockProgram::decode(Value v, const Bytes& bytes, const RunContext& run) const {
  const SpanTimer timer(run.spans,
                        {.name = to_string(codec_),
                         .direction = "decode",
                         .block = run.block,
                         .micro_batch = run.micro_batch});
  decode_activation(values_[index(v)], codes(v, bytes), codec_);
}

}  // namespace strata
