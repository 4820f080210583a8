#include "core/ops/residual.h"

#include <fmt/format.h>

#include "core/cpu/dropout.h"
#include "core/cpu/rows.h"
#include "core/error.h"
#include "core/ops/checks.h"

namespace strata {

namespace {

constexpr int kSitesPerBlock = 256;

/// A site of the graph and its rate; the rest of the key comes with each run.
struct Site {
  float rate;
  int site;
  std::int64_t T;

  cpu::Dropout at(const RunContext& run) const {
    if (!run.training || rate == 0.f) {
      return {};
    }
    const auto b =
        static_cast<std::uint64_t>(run.block) * kSitesPerBlock + static_cast<std::uint64_t>(site);
    return {rate,
            {run.seed, RandomUse::dropout, static_cast<std::uint64_t>(run.step), b},
            run.batch->first_sample,
            T};
  }
};

Site make_site(Graph& graph, std::string_view op, Value x, float rate) {
  if (!(rate >= 0.f && rate < 1.f)) {
    throw Error(Errc::internal, fmt::format("{}: rate in [0, 1) needed, got {}", op, rate));
  }
  check_shapes(graph,
               op,
               graph.shape(x).numel() == graph.B() * graph.T() * graph.shape(x).back(),
               fmt::format("x ({}, {}, C)", graph.B(), graph.T()),
               {x});
  const int site = graph.next_site();
  if (site >= kSitesPerBlock) {
    throw Error(Errc::internal,
                fmt::format("{}: at most {} random sites in a block", op, kSitesPerBlock));
  }
  return {rate, site, graph.T()};
}

}  // namespace

Value residual_dropout(Graph& graph, Value x, Value branch, float rate) {
  check_activation(graph, "residual_dropout", x);
  check_activation(graph, "residual_dropout", branch);
  check_shapes(graph,
               "residual_dropout",
               graph.shape(x) == graph.shape(branch),
               "x and branch of one shape",
               {x, branch});
  const Site site = make_site(graph, "residual_dropout", x, rate);
  const Value y = graph.add_result(graph.dtype(), graph.shape(x));
  Node node;
  node.op = "residual_dropout";
  node.in = {x, branch};
  node.out = {y};
  node.flops = static_cast<double>(graph.shape(x).numel());
  node.forward = [site](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::dropout_forward(a.out[0], a.in[0], a.in[1], site.at(a.run));
    }
    no_kernel("residual_dropout", a.in[0].device());
  };
  node.backward = [site](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("residual_dropout", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::pass_gradient(a.grad_in[0], dy);
    }
    if (a.grad_in[1]) {
      cpu::dropout_backward(a.grad_in[1], dy, site.at(a.run));
    }
  };
  node.redo = {.in = bit(0) | bit(1), .gives = bit(0), .flops = node.flops, .body = node.forward};
  graph.add_node(std::move(node));
  return y;
}

Value dropout(Graph& graph, Value x, float rate) {
  check_activation(graph, "dropout", x);
  const Site site = make_site(graph, "dropout", x, rate);
  const Value y = graph.add_result(graph.dtype(), graph.shape(x));
  Node node;
  node.op = "dropout";
  node.in = {x};
  node.out = {y};
  node.flops = static_cast<double>(graph.shape(x).numel());
  node.forward = [site](const ForwardArgs& a) {
    if (a.in[0].on(DeviceKind::cpu)) {
      return cpu::dropout_forward(a.out[0], {}, a.in[0], site.at(a.run));
    }
    no_kernel("dropout", a.in[0].device());
  };
  node.backward = [site](const BackwardArgs& a) {
    const Tensor& dy = a.grad_out[0];
    if (!dy.on(DeviceKind::cpu)) {
      no_kernel("dropout", dy.device());
    }
    if (a.grad_in[0]) {
      cpu::dropout_backward(a.grad_in[0], dy, site.at(a.run));
    }
  };
  node.redo = {.in = bit(0), .gives = bit(0), .flops = node.flops, .body = node.forward};
  graph.add_node(std::move(node));
  return y;
}

}  // namespace strata
