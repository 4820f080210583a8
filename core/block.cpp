#include "core/block.h"

#include <algorithm>

#include "core/error.h"
#include "core/memory.h"

namespace strata {
namespace {

constexpr std::int64_t kAlign = 64;

std::int64_t value_bytes(const ValueInfo& info) {
  const std::int64_t bytes = info.shape.numel() * size_bytes(info.dtype);
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

std::size_t index(Value v) {
  return static_cast<std::size_t>(v.id);
}

Span op_span(const Node& node, std::string_view direction, const RunContext& run) {
  return {
      .name = node.op, .direction = direction, .block = run.block, .micro_batch = run.micro_batch};
}

/// The value itself, or the one whose columns it shows: what has bytes.
Value owner(const Graph& graph, Value v) {
  const ValueInfo& info = graph.info(v);
  return info.kind == ValueKind::columns ? info.of : v;
}

bool marked(std::uint32_t mask, std::size_t bit) {
  return (mask >> bit & 1u) != 0;
}

/// Whether the node reads the value or columns of it.
bool uses(const Graph& graph, const Node& node, Value v) {
  return std::any_of(
      node.in.begin(), node.in.end(), [&](Value in) { return owner(graph, in) == v; });
}

/// What is seen through columns is seen through them alone, and every column once: so each gradient
/// begins with an overwrite and none is left out.
void require_columns_cover(const Graph& graph, Value v) {
  std::vector<int> seen(static_cast<std::size_t>(graph.shape(v).back()));
  bool any = false;
  for (const ValueInfo& info : graph.values()) {
    if (info.kind == ValueKind::columns && info.of == v) {
      any = true;
      for (std::int64_t c = 0; c < info.shape.back(); ++c) {
        ++seen[static_cast<std::size_t>(info.first_column + c)];
      }
    }
  }
  const auto reads = [&](const Node& n) {
    return std::find(n.in.begin(), n.in.end(), v) != n.in.end();
  };
  STRATA_ASSERT(!any || std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  STRATA_ASSERT(!any || std::none_of(graph.nodes().begin(), graph.nodes().end(), reads));
}

}  // namespace

BlockProgram::BlockProgram(const Block& block,
                           std::int64_t B,
                           std::int64_t T,
                           std::int64_t C,
                           DType dtype,
                           Use use,
                           Keep keep,
                           Gradients wanted,
                           ActivationCodec codec)
    : graph_(B, T, dtype), use_(use), codec_(codec) {
  input_ = graph_.add_input({B, T, C});
  std::vector<Value> params;
  for (const ParamSpec& p : block.spec().params) {
    params.push_back(graph_.add_param(static_cast<int>(params.size()), p.info.shape));
  }
  for (const BorrowedParam& p : block.spec().borrows) {
    params.push_back(graph_.add_param(static_cast<int>(params.size()), p.shape));
  }
  output_ = block.build(graph_, input_, params, use == Use::logits);
  ends_in_loss_ = !output_;
  STRATA_ASSERT(!graph_.nodes().empty());
  STRATA_ASSERT(ends_in_loss_ == graph_.nodes().back().is_loss);
  for (const Node& node : graph_.nodes()) {
    flops_ += node.flops;
  }
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    require_columns_cover(graph_, {id});
  }
  choose_gradients(block.spec().params.size(), wanted);
  output_bytes_ = ends_in_loss_ ? 0 : value_bytes(graph_.info(output_));
  values_.resize(graph_.values().size());
  choose_kept(keep);
  choose_coded();
  // The output belongs to the next block's boundary.
  STRATA_ASSERT(ends_in_loss_ || hold_[index(output_)] == Hold::nowhere);
  choose_recomputed();
  place_forward();
  if (use_ == Use::train) {
    place_backward();
  }
}

void BlockProgram::place_forward() {
  const auto nodes = graph_.nodes();
  std::vector<Lifetime> lifetimes;  // of transient values, then of scratch
  std::vector<Value> transient;
  forward_place_.assign(graph_.values().size(), {});
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    const Value v{id};
    const ValueInfo& info = graph_.info(v);
    if (info.kind == ValueKind::columns) {
      continue;  // bound where its owner is
    }
    Place& place = forward_place_[index(v)];
    if (info.kind == ValueKind::param) {
      place = {Region::param, info.param};
    } else if (v == input_) {
      place.region = Region::input;
    } else if (v == output_) {
      place.region = Region::output;
      for (std::size_t n = 0; n < nodes.size(); ++n) {
        const auto& out = nodes[n].out;
        if (recomputed_[n] && std::find(out.begin(), out.end(), v) != out.end()) {
          const auto at = static_cast<std::int64_t>(n);
          lifetimes.push_back({value_bytes(info), {{at, at + 1}}});
          transient.push_back(v);
        }
      }
    } else if (hold_[index(v)] == Hold::saved) {
      place = {Region::saved, saved_bytes_};
      saved_bytes_ += saved_bytes_of(v);
    } else {
      if (hold_[index(v)] == Hold::coded) {
        codes_at_[index(v)] = saved_bytes_;
        saved_bytes_ += saved_bytes_of(v);
      }
      Interval live;
      for (std::size_t n = 0; n < nodes.size(); ++n) {
        if (std::find(nodes[n].out.begin(), nodes[n].out.end(), v) != nodes[n].out.end()) {
          live = {static_cast<std::int64_t>(n), static_cast<std::int64_t>(n) + 1};
        }
        if (uses(graph_, nodes[n], v)) {
          live.end = static_cast<std::int64_t>(n) + 1;
        }
      }
      lifetimes.push_back({value_bytes(info), {live}});
      transient.push_back(v);
    }
  }
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const auto at = static_cast<std::int64_t>(n);
    lifetimes.push_back({nodes[n].forward_scratch_bytes, {{at, at + 1}}});
  }
  const Offsets offsets = assign_offsets(lifetimes, kAlign);
  for (std::size_t i = 0; i < transient.size(); ++i) {
    Place& place =
        transient[i] == output_ ? recomputed_output_ : forward_place_[index(transient[i])];
    place = {Region::workspace, offsets.at[i]};
  }
  forward_scratch_.assign(offsets.at.end() - static_cast<std::ptrdiff_t>(nodes.size()),
                          offsets.at.end());
  workspace_bytes_ = std::max(workspace_bytes_, offsets.total_bytes);
}

/// Times run backwards: node n acts at time N - 1 - n. A gradient lives from its first contribution
/// to the backward of its producer; a value that is redone or decoded, from then to its last
/// reader.
void BlockProgram::place_backward() {
  const auto nodes = graph_.nodes();
  const auto N = static_cast<std::int64_t>(nodes.size());
  std::vector<Lifetime> lifetimes;
  std::vector<Value> transient;
  grad_place_.assign(graph_.values().size(), {});
  backward_place_ = forward_place_;
  first_grad_node_.assign(graph_.values().size(), -1);
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    const Value v{id};
    const ValueInfo& info = graph_.info(v);
    std::int64_t producer = -1;
    for (std::int64_t n = 0; n < N; ++n) {
      const Node& node = nodes[static_cast<std::size_t>(n)];
      const auto reads = [&](Value in) { return in == v || owner(graph_, in) == v; };
      if (std::any_of(node.in.begin(), node.in.end(), reads)) {
        first_grad_node_[index(v)] = static_cast<int>(n);
      }
      if (std::find(node.out.begin(), node.out.end(), v) != node.out.end()) {
        producer = n;
      }
    }
    if (info.kind == ValueKind::columns) {
      STRATA_ASSERT(first_grad_node_[index(v)] >= 0);
      continue;  // bound where its owner's is
    }
    if (v == output_) {
      grad_place_[index(v)].region = Region::output;
      first_grad_node_[index(v)] = static_cast<int>(N);  // the next block contributed first
    } else if (!info.wants_grad || first_grad_node_[index(v)] < 0) {
      continue;
    } else if (info.kind == ValueKind::param) {
      grad_place_[index(v)] = {Region::param, info.param};
    } else if (v == input_) {
      grad_place_[index(v)].region = Region::input;
    } else {
      lifetimes.push_back(
          {value_bytes(info), {{N - 1 - first_grad_node_[index(v)], N - producer}}});
      transient.push_back(v);
    }
  }
  const std::size_t gradients = transient.size();
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    if (hold_[index({id})] == Hold::redone || hold_[index({id})] == Hold::coded) {
      lifetimes.push_back({value_bytes(graph_.info({id})), {made_again_lifetime({id})}});
      transient.push_back({id});
    } else if (forward_place_[index({id})].region == Region::workspace) {
      backward_place_[index({id})] = {};
    }
  }
  for (std::int64_t n = 0; n < N; ++n) {
    lifetimes.push_back(
        {nodes[static_cast<std::size_t>(n)].backward_scratch_bytes, {{N - 1 - n, N - n}}});
  }
  for (std::int64_t n = 0; n < N; ++n) {
    const Node& node = nodes[static_cast<std::size_t>(n)];
    const std::int64_t at = redo_at_[static_cast<std::size_t>(n)];
    lifetimes.push_back({at < 0 ? 0 : node.redo.scratch_bytes, {{N - 1 - at, N - at}}});
  }
  const Offsets offsets = assign_offsets(lifetimes, kAlign);
  for (std::size_t i = 0; i < transient.size(); ++i) {
    auto& places = i < gradients ? grad_place_ : backward_place_;
    places[index(transient[i])] = {Region::workspace, offsets.at[i]};
  }
  backward_scratch_.assign(offsets.at.end() - 2 * N, offsets.at.end() - N);
  redo_scratch_.assign(offsets.at.end() - N, offsets.at.end());
  workspace_bytes_ = std::max(workspace_bytes_, offsets.total_bytes);
}

std::vector<BlockProgram::Slot> BlockProgram::slots() const {
  std::vector<Slot> slots;
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    const ValueInfo& info = graph_.info(Value{id});
    if (hold_[index({id})] == Hold::saved || hold_[index({id})] == Hold::coded) {
      slots.push_back(
          {info.name.empty() ? "value" + std::to_string(id) : info.name, saved_bytes_of({id})});
    }
  }
  return slots;
}

/// `places`: of values or of gradients.
Tensor BlockProgram::bind(Value v,
                          std::span<const Place> places,
                          const Bytes& bytes,
                          std::span<std::byte> input,
                          std::span<std::byte> output) const {
  const ValueInfo& info = graph_.info(v);
  if (info.kind == ValueKind::columns) {
    return bind(info.of, places, bytes, input, output)
        .columns(info.first_column, info.first_column + info.shape.back());
  }
  const Place& place = places[index(v)];
  const auto view = [&](std::span<std::byte> from, std::int64_t offset) {
    if (from.empty()) {
      return Tensor();
    }
    STRATA_ASSERT(offset + info.shape.numel() * size_bytes(info.dtype) <=
                  static_cast<std::int64_t>(from.size()));
    return Tensor(from.data() + offset, info.dtype, info.shape);
  };
  switch (place.region) {
    case Region::none:
      return {};
    case Region::input:
      return view(input, 0);
    case Region::output:
      return view(output, 0);
    case Region::saved:
      return view(bytes.saved, place.offset);
    case Region::workspace:
      return view(bytes.workspace, place.offset);
    case Region::param:
      return bytes.params[static_cast<std::size_t>(place.offset)];
  }
  return {};
}

void BlockProgram::bind_values(const Bytes& bytes, std::span<const Place> places) const {
  for (std::size_t id = 0; id < values_.size(); ++id) {
    values_[id] = bind({static_cast<int>(id)}, places, bytes, bytes.input, bytes.output);
  }
}

void BlockProgram::forward(const Bytes& bytes, const RunContext& run) const {
  bind_values(bytes, forward_place_);
  const auto nodes = graph_.nodes();
  const bool recompute = output_ && bytes.output.empty();
  if (recompute && recomputed_output_.region == Region::workspace) {
    const ValueInfo& info = graph_.info(output_);
    values_[index(output_)] =
        Tensor(bytes.workspace.data() + recomputed_output_.offset, info.dtype, info.shape);
  }
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const Node& node = nodes[n];
    if ((node.is_loss && use_ == Use::train) || (recompute && !recomputed_[n])) {
      continue;  // the loss runs with its gradient
    }
    in_.clear();
    out_.clear();
    for (const Value v : node.in) {
      in_.push_back(values_[index(v)]);
    }
    for (const Value v : node.out) {
      out_.push_back(values_[index(v)]);
    }
    const auto scratch =
        bytes.workspace.subspan(static_cast<std::size_t>(forward_scratch_[n]),
                                static_cast<std::size_t>(node.forward_scratch_bytes));
    {
      const SpanTimer timer(run.spans, op_span(node, "forward", run));
      node.forward({in_, out_, scratch, run});
    }
    encode(node, bytes, run);
  }
}

GradSink BlockProgram::sink(Value v, std::size_t node, const Bytes& bytes) const {
  const Place& place = grad_place_[index(v)];
  if (grad_place_[index(owner(graph_, v))].region == Region::none) {
    return {};
  }
  const bool first = first_grad_node_[index(v)] == static_cast<int>(node);
  if (place.region == Region::param) {
    GradSink to = bytes.param_grads[static_cast<std::size_t>(place.offset)];
    if (!first) {
      to.mode = Accumulate::add;
    }
    return to;
  }
  return {bind(v, grad_place_, bytes, bytes.input_grad, bytes.output_grad),
          first ? Accumulate::overwrite : Accumulate::add};
}

void BlockProgram::redo(const Node& node, const Bytes& bytes, const RunContext& run) const {
  in_.clear();
  out_.clear();
  for (std::size_t i = 0; i < node.in.size(); ++i) {
    in_.push_back(marked(node.redo.in, i) ? values_[index(node.in[i])] : Tensor());
  }
  for (std::size_t i = 0; i < node.out.size(); ++i) {
    const bool named = marked(node.redo.out | node.redo.gives, i);
    out_.push_back(named ? values_[index(node.out[i])] : Tensor());
  }
  const SpanTimer timer(run.spans, op_span(node, "redo", run));
  const auto n = static_cast<std::size_t>(&node - graph_.nodes().data());
  const auto scratch = bytes.workspace.subspan(static_cast<std::size_t>(redo_scratch_[n]),
                                               static_cast<std::size_t>(node.redo.scratch_bytes));
  node.redo.body({in_, out_, scratch, run});
}

void BlockProgram::run_node_backward(std::size_t n,
                                     const Bytes& bytes,
                                     const RunContext& run) const {
  const Node& node = graph_.nodes()[n];
  in_.clear();
  out_.clear();
  grad_out_.clear();
  grad_in_.clear();
  for (std::size_t i = 0; i < node.in.size(); ++i) {
    const bool keeps = marked(node.keeps_in, i);
    in_.push_back(keeps ? values_[index(node.in[i])] : Tensor());
    grad_in_.push_back(sink(node.in[i], n, bytes));
  }
  for (std::size_t i = 0; i < node.out.size(); ++i) {
    const Value v = node.out[i];
    const bool keeps = marked(node.keeps_out, i);
    out_.push_back(keeps ? values_[index(v)] : Tensor());
    grad_out_.push_back(bind(v, grad_place_, bytes, bytes.input_grad, bytes.output_grad));
  }
  const auto scratch =
      bytes.workspace.subspan(static_cast<std::size_t>(backward_scratch_[n]),
                              static_cast<std::size_t>(node.backward_scratch_bytes));
  const SpanTimer timer(run.spans, op_span(node, "backward", run));
  node.backward({in_, out_, grad_out_, grad_in_, scratch, run});
}

void BlockProgram::backward(const Bytes& bytes, const RunContext& run) const {
  STRATA_ASSERT(use_ == Use::train);
  bind_values(bytes, backward_place_);
  for (std::size_t n = graph_.nodes().size(); n-- > 0;) {
    for (const Value coded : decode_before_[n]) {
      decode(coded, bytes, run);
    }
    for (const int again : redo_before_[n]) {
      redo(graph_.nodes()[static_cast<std::size_t>(again)], bytes, run);
    }
    if (passes_gradient(graph_.nodes()[n])) {
      run_node_backward(n, bytes, run);
    }
  }
}

}  // namespace strata
