#include "core/ops/checks.h"

#include <fmt/format.h>

namespace strata {

namespace {

void check_recorded(const Graph& graph, std::string_view op, Value v) {
  if (v.id < 0 || v.id >= static_cast<int>(graph.values().size())) {
    throw Error(Errc::internal,
                fmt::format("{}: an operand of this graph needed, got value {} of {}",
                            op,
                            v.id,
                            graph.values().size()));
  }
}

void check_kind(const Graph& graph, std::string_view op, Value v, bool param) {
  check_recorded(graph, op, v);
  const ValueInfo& info = graph.info(v);
  if ((info.kind == ValueKind::param) != param || info.dtype != graph.dtype()) {
    throw Error(Errc::internal,
                fmt::format("{}: {} {} needed, got {} '{}' of {}",
                            op,
                            to_string(graph.dtype()),
                            param ? "parameter" : "activation",
                            info.kind == ValueKind::param ? "parameter" : "activation",
                            info.name,
                            to_string(info.dtype)));
  }
}

}  // namespace

void check_shapes(const Graph& graph,
                  std::string_view op,
                  bool ok,
                  std::string_view needed,
                  std::initializer_list<Value> got) {
  if (ok) {
    return;
  }
  std::string message = fmt::format("{}: {} needed, got", op, needed);
  std::string_view separator = " ";
  for (const Value v : got) {
    message += fmt::format("{}{}", separator, to_string(graph.shape(v)));
    separator = ", ";
  }
  throw Error(Errc::internal, message);
}

void check_activation(const Graph& graph, std::string_view op, Value v, Columns columns) {
  check_kind(graph, op, v, false);
  if (graph.info(v).kind == ValueKind::columns && columns == Columns::refused) {
    throw Error(Errc::internal,
                fmt::format("{}: whole rows needed, got columns of a wider value", op));
  }
}

void check_param(const Graph& graph, std::string_view op, Value v) {
  check_kind(graph, op, v, true);
}

void check_indices(const Tensor& indices, const IndexRange& range) {
  if (!indices || indices.shape() != Shape{range.B, range.T}) {
    throw Error(Errc::internal,
                fmt::format("{}: {}s of shape ({}, {}) needed, got {}",
                            range.op,
                            range.what,
                            range.B,
                            range.T,
                            to_string(indices.shape())));
  }
  const std::int32_t* const index = indices.data<std::int32_t>();
  for (std::int64_t i = 0; i < indices.numel(); ++i) {
    if (index[i] < range.low || index[i] >= range.limit) {
      throw Error(
          range.code,
          fmt::format(
              "{}: {} below {} needed, got {} in row {}, place {}{}",
              range.op,
              range.what,
              range.limit,
              index[i],
              i / range.T,
              i % range.T,
              range.code == Errc::data ? "; was the text made with this model's tokenizer?" : ""));
    }
  }
}

void no_kernel(std::string_view op, Device device) {
  throw Error(
      Errc::config,
      fmt::format("{}: no kernel for {}; this build computes on cpu only", op, to_string(device)));
}

Value add_statistic(Graph& graph, const Shape& shape, std::string_view op, std::string_view what) {
  const Value v = graph.add_result(DType::f32, shape, fmt::format("{}.{}", op, what));
  graph.info(v).wants_grad = false;
  return v;
}

}  // namespace strata
