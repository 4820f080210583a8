#pragma once
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "core/communicator.h"
#include "launch/activations.h"
#include "launch/job.h"

namespace strata::launch {

/// The plan where as many blocks speculate as it says, or, where updates are hybrid and it leaves
/// that open, as many as there is room for beside the places and the recompute that it has: found
/// by bisection, none always fits. A next generation never drives anything elsewhere: it takes what
/// the budgets leave.
Planned with_speculation(Planned planned);

/// A job's plan, which fits, with as many blocks speculating as there is room for on every rank:
/// ranks meet where blocks are updated. Throws what plan_job and require_fit throw, on all ranks.
/// Collective.
Planned plan_together(const Job& job, Communicator& ranks);

/// "updates: hybrid, 3 of 6 blocks speculate, the last ones, ..."; absent: updates are not hybrid.
std::optional<std::string> speculation_line(const Blueprint& blueprint);
/// null: updates are not hybrid.
nlohmann::json speculation_json(const Planned& planned);

}  // namespace strata::launch
