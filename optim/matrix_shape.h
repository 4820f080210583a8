#pragma once
#include <cstdint>

#include "core/param.h"

namespace strata::optim {

/// Rows and columns of a parameter as it is kept; all axes but the last are rows.
struct MatrixShape {
  std::int64_t rows = 1, columns = 1;
  explicit MatrixShape(const ParamInfo& param)
      : columns(param.shape.rank() == 0 ? 1 : param.shape.back()) {
    rows = columns == 0 ? 0 : param.shape.numel() / columns;
  }
  std::int64_t numel() const { return rows * columns; }
  std::int64_t long_side() const { return rows >= columns ? rows : columns; }
  std::int64_t short_side() const { return rows >= columns ? columns : rows; }
};

}  // namespace strata::optim
