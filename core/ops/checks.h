#pragma once
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "core/error.h"
#include "core/graph.h"

namespace strata {

// What every op asks of its operands while it is recorded. All throw internal: a model was built
// wrong.

/// "rms_norm: weight (C) beside x (..., C) needed, got (3, 13, 17), (16)".
void check_shapes(const Graph& graph,
                  std::string_view op,
                  bool ok,
                  std::string_view needed,
                  std::initializer_list<Value> got);
/// Whether an op's kernel takes rows that are not one behind the other.
enum class Columns : std::uint8_t { refused, allowed };
/// An input or result in the graph's dtype.
void check_activation(const Graph& graph,
                      std::string_view op,
                      Value v,
                      Columns columns = Columns::refused);
/// A parameter: kernels give it an f32 gradient.
void check_param(const Graph& graph, std::string_view op, Value v);

/// Indices that come with a micro-batch: kernels use them without a look. Throws internal when
/// their shape is not (B, T), `code` when one lies outside [low, limit).
struct IndexRange {
  std::string_view op, what;
  std::int64_t B, T, low, limit;
  Errc code;
};
void check_indices(const Tensor& indices, const IndexRange& range);

/// No kernel for this device: throws config.
[[noreturn]] void no_kernel(std::string_view op, Device device);

/// A result that gradients do not pass through (statistics for backward).
Value add_statistic(Graph& graph, const Shape& shape, std::string_view op, std::string_view what);

constexpr std::uint32_t bit(int i) {
  return 1u << i;
}

}  // namespace strata
