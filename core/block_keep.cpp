// What backward finds: saved by forward, or redone from what is saved.
#include <algorithm>

#include "core/block.h"
#include "core/error.h"

namespace strata {
namespace {

std::size_t index(Value v) {
  return static_cast<std::size_t>(v.id);
}

bool marked(std::uint32_t mask, std::size_t bit) {
  return (mask >> bit & 1u) != 0;
}

/// Whether the mask names the value, or columns of it, among these.
bool names(const Graph& graph, const std::vector<Value>& values, std::uint32_t mask, Value v) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const ValueInfo& info = graph.info(values[i]);
    if (marked(mask, i) && (info.kind == ValueKind::columns ? info.of : values[i]) == v) {
      return true;
    }
  }
  return false;
}

bool gives(const Node& node, Value v) {
  for (std::size_t i = 0; i < node.out.size(); ++i) {
    if (marked(node.redo.gives, i) && node.out[i] == v) {
      return true;
    }
  }
  return false;
}

}  // namespace

/// A result wants its gradient where an operand behind it does.
void BlockProgram::choose_gradients(std::size_t own_params, Gradients wanted) {
  for (int id = 0; id < static_cast<int>(graph_.values().size()); ++id) {
    ValueInfo& info = graph_.info({id});
    if (info.kind == ValueKind::param) {
      info.wants_grad = info.param < static_cast<int>(own_params) ? wanted.params : wanted.borrowed;
    } else if (info.kind == ValueKind::input) {
      info.wants_grad = wanted.input;
    }
  }
  for (const Node& node : graph_.nodes()) {
    const bool passes = passes_gradient(node);
    for (const Value v : node.out) {
      graph_.info(v).wants_grad = graph_.info(v).wants_grad && passes;
    }
  }
}

bool BlockProgram::wants_gradient(Value v) const {
  const ValueInfo& info = graph_.info(v);
  return info.kind == ValueKind::columns ? graph_.info(info.of).wants_grad : info.wants_grad;
}

bool BlockProgram::passes_gradient(const Node& node) const {
  return std::any_of(node.in.begin(), node.in.end(), [&](Value v) { return wants_gradient(v); });
}

bool BlockProgram::read_by_backward(const Node& node, Value v) const {
  if (!passes_gradient(node)) {
    return false;
  }
  const bool to_params = std::any_of(node.in.begin(), node.in.end(), [&](Value in) {
    return graph_.info(in).kind == ValueKind::param && wants_gradient(in);
  });
  const std::uint32_t kept = node.keeps_in & ~(to_params ? 0u : node.keeps_for_params);
  return names(graph_, node.in, kept, v) || names(graph_, node.out, node.keeps_out, v);
}

bool BlockProgram::read_by_redo(const Node& node, Value v) const {
  return names(graph_, node.in, node.redo.in, v) || names(graph_, node.out, node.redo.out, v);
}

/// By node.
std::vector<bool> BlockProgram::may_be_redone(Keep keep) const {
  const auto nodes = graph_.nodes();
  std::vector<bool> may;
  int projections_after_attention = -1;  // -1: it is still to come
  for (const Node& node : nodes) {
    if (node.op == "attention") {
      projections_after_attention = 0;
    }
    bool redone = static_cast<bool>(node.redo.body);
    if (node.redo.projection) {
      const bool behind = projections_after_attention >= 0;
      const bool of_mlp =
          behind && projections_after_attention > 0;  // the first is attention's own
      projections_after_attention += behind ? 1 : 0;
      redone = redone && (keep == Keep::attention || (keep == Keep::before_mlp && of_mlp));
    }
    may.push_back(redone);
  }
  return may;
}

void BlockProgram::choose_kept(Keep keep) {
  const auto nodes = graph_.nodes();
  hold_.assign(graph_.values().size(), Hold::nowhere);
  redo_at_.assign(nodes.size(), -1);
  redo_before_.assign(nodes.size(), {});
  if (use_ != Use::train) {
    return;
  }
  const auto each_result = [&](const auto& body) {
    for (int id = 0; id < static_cast<int>(hold_.size()); ++id) {
      if (graph_.info({id}).kind == ValueKind::result) {
        body(Value{id});
      }
    }
  };
  each_result([&](Value v) {
    if (std::any_of(
            nodes.begin(), nodes.end(), [&](const Node& n) { return read_by_backward(n, v); })) {
      hold_[index(v)] = Hold::saved;
    }
  });
  if (keep == Keep::all) {
    return;
  }
  std::vector<bool> redoable(hold_.size(), false);
  const std::vector<bool> may = may_be_redone(keep);
  for (std::size_t n = 0; n < nodes.size(); ++n) {  // what a redo reads may itself be redone
    const Node& node = nodes[n];
    bool can = may[n];
    each_result([&](Value v) {
      const bool at_hand = hold_[index(v)] == Hold::saved || redoable[index(v)];
      can = can && (at_hand || !read_by_redo(node, v));
    });
    for (std::size_t i = 0; can && i < node.out.size(); ++i) {
      redoable[index(node.out[i])] = marked(node.redo.gives, i) && node.out[i] != output_;
    }
  }
  schedule_redo(redoable);
}

/// Backwards: the readers of a value come after its node, so they are placed before it is.
void BlockProgram::schedule_redo(const std::vector<bool>& redoable) {
  const auto nodes = graph_.nodes();
  for (int n = static_cast<int>(nodes.size()) - 1; n >= 0; --n) {
    const Node& node = nodes[static_cast<std::size_t>(n)];
    int& at = redo_at_[static_cast<std::size_t>(n)];
    for (const Value v : node.out) {
      for (int m = n; redoable[index(v)] && m < static_cast<int>(nodes.size()); ++m) {
        const Node& reader = nodes[static_cast<std::size_t>(m)];
        const int redone = redo_at_[static_cast<std::size_t>(m)];
        at = std::max(
            {at, read_by_backward(reader, v) ? m : -1, read_by_redo(reader, v) ? redone : -1});
      }
    }
    if (at < 0) {
      continue;
    }
    for (const Value v : node.out) {
      if (gives(node, v)) {
        hold_[index(v)] = Hold::redone;
      }
    }
    auto& before = redo_before_[static_cast<std::size_t>(at)];
    before.insert(before.begin(), n);  // one redo may read another's result
    redo_flops_ += node.redo.flops;
  }
}

/// Of a value that is redone or decoded, in the time of place_backward.
Interval BlockProgram::made_again_lifetime(Value v) const {
  const auto nodes = graph_.nodes();
  const auto N = static_cast<std::int64_t>(nodes.size());
  std::int64_t first = decode_at_[index(v)], last = N;  // node whose backward it precedes, reads it
  for (std::int64_t n = 0; n < N; ++n) {
    const Node& node = nodes[static_cast<std::size_t>(n)];
    const std::int64_t redone = redo_at_[static_cast<std::size_t>(n)];
    if (redone >= 0 && gives(node, v)) {
      first = redone;
      last = std::min(last, redone);
    }
    if (read_by_backward(node, v)) {
      last = std::min(last, n);
    }
    if (redone >= 0 && read_by_redo(node, v)) {
      last = std::min(last, redone);
    }
  }
  STRATA_ASSERT(first >= 0 && last <= first);
  return {N - 1 - first, N - last};
}

/// A node whose results end in nothing that is saved has no part in a recompute.
void BlockProgram::choose_recomputed() {
  const auto nodes = graph_.nodes();
  recomputed_.assign(nodes.size(), false);
  std::vector<bool> wanted(hold_.size(), false);
  for (std::size_t n = nodes.size(); n-- > 0;) {
    const auto is_wanted = [&](Value v) {
      const Hold hold = hold_[index(v)];
      return hold == Hold::saved || hold == Hold::coded || wanted[index(v)];
    };
    recomputed_[n] = std::any_of(nodes[n].out.begin(), nodes[n].out.end(), is_wanted);
    if (recomputed_[n]) {
      recompute_flops_ += nodes[n].flops;
      for (const Value v : nodes[n].in) {
        const ValueInfo& info = graph_.info(v);
        wanted[index(info.kind == ValueKind::columns ? info.of : v)] = true;
      }
    }
  }
}

}  // namespace strata
