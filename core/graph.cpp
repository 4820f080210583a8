#include "core/graph.h"

#include <utility>

#include "core/error.h"

namespace strata {

Value Graph::add_input(Shape shape) {
  values_.push_back(
      {.kind = ValueKind::input, .of = {}, .dtype = dtype_, .shape = shape, .name = "input"});
  return {static_cast<int>(values_.size()) - 1};
}

Value Graph::add_param(int index, const Shape& shape) {
  values_.push_back({.kind = ValueKind::param,
                     .param = index,
                     .of = {},
                     .dtype = dtype_,
                     .shape = shape,
                     .name = "param" + std::to_string(index)});
  return {static_cast<int>(values_.size()) - 1};
}

Value Graph::add_result(DType dtype, Shape shape, std::string name) {
  values_.push_back({.of = {}, .dtype = dtype, .shape = shape, .name = std::move(name)});
  return {static_cast<int>(values_.size()) - 1};
}

Value Graph::add_columns(Value of, std::int64_t first, std::int64_t width) {
  ValueInfo part = info(of);
  STRATA_ASSERT(part.kind == ValueKind::result && part.wants_grad);
  STRATA_ASSERT(first >= 0 && width > 0 && first + width <= part.shape.back());
  part.kind = ValueKind::columns;
  part.of = of;
  part.first_column = first;
  part.name.clear();
  part.shape[part.shape.rank() - 1] = width;
  values_.push_back(std::move(part));
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
