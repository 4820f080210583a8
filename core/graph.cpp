#include "core/graph.h"

#include <utility>

#include "core/error.h"

namespace strata {

Value Graph::add_input(Shape shape) {
  values_.push_back({ValueKind::input, -1, dtype_, shape, "input", true});
  return {static_cast<int>(values_.size()) - 1};
}

Value Graph::add_param(int index, const Shape& shape) {
  values_.push_back(
      {ValueKind::param, index, dtype_, shape, "param" + std::to_string(index), true});
  return {static_cast<int>(values_.size()) - 1};
}

Value Graph::add_result(DType dtype, Shape shape, std::string name) {
  values_.push_back({ValueKind::result, -1, dtype, shape, std::move(name), true});
  return {static_cast<int>(values_.size()) - 1};
}

void Graph::add_node(Node node) {
  for (const auto& operands : {node.in, node.out}) {
    for (const Value v : operands) {
      STRATA_ASSERT(v.id >= 0 && v.id < static_cast<int>(values_.size()));
    }
  }
  nodes_.push_back(std::move(node));
}

}  // namespace strata
