#include "launch/turn_plans.h"

#include <set>

namespace strata::launch {

std::vector<std::int64_t> first_steps_of_turns(const optim::OptimizerUpdater& updater,
                                               std::int64_t steps) {
  const std::int64_t period = updater.period_steps();
  std::vector<std::int64_t> firsts;
  std::set<std::vector<std::vector<Turn>>> known;
  std::int64_t step = 1;
  do {
    if (known.insert(updater.turns(step)).second) {
      firsts.push_back(step);
    }
    step += period;
  } while (period > 0 && step <= steps);
  return firsts;
}

}  // namespace strata::launch
