#pragma once
#include "core/param.h"

namespace strata::optim {

/// Calls body(T{}) with the scalar type of the slice: float in training, double where published
/// float64 traces are followed through the same rule.
template <class Body>
void with_scalar(const Slice& weight, const Body& body) {
  if (weight.master.dtype() == DType::f64) {
    body(double{});
  } else {
    body(float{});
  }
}

}  // namespace strata::optim
