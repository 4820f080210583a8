#pragma once
#include <cstdint>

#include "core/param.h"

namespace strata::optim {

// Percentile clipping (bitsandbytes): a tensor's gradient is scaled down to the p-th percentile of
// its last 100 norms, this one included. A tensor may be cut over ranks: its squared norm is a
// first phase of statistics, and the rank of its first element, which keeps the norms, tells the
// others the scale in a second one.
inline constexpr int kPercentilePhases = 2;
StateField percentile_field();
/// Of this slice, scaled; in fixed chunks.
double squared_norm(const SliceIn& grad, float scale);
/// Enters the norm among the last 100 and returns what the gradient is multiplied by. In step 1 all
/// 100 are this one.
double percentile_scale(StateViews& state, double norm, int percentile, std::int64_t step);

}  // namespace strata::optim
