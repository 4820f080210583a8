#pragma once
#include <cstdint>

#include "optim/optimizer.h"

namespace strata::optim {

/// Cuts of the tensor over ranks fall on multiples of this many elements: of kChunk and of what the
/// method allows; the tensor's size where it may not be cut. Where the method needs sums over the
/// tensor, they are made of pieces of this size, so that the order of addition follows from the
/// tensor alone.
std::int64_t cut_unit(const Optimizer& method, const ParamInfo& param);

}  // namespace strata::optim
