#pragma once
#include <cstdint>
#include <vector>

#include "optim/updater.h"

namespace strata::launch {

/// A first step for each choice of parameters that train together in `steps` steps, in the order in
/// which they come: one, step 1, where no turns are taken.
std::vector<std::int64_t> first_steps_of_turns(const optim::OptimizerUpdater& updater,
                                               std::int64_t steps);

}  // namespace strata::launch
