#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string_view>

#include "core/memory.h"
#include "offload/planner.h"

namespace strata::offload {

/// How the memory of tiers is had.
struct MemoryConfig {
  std::optional<int> far_node = {};  // absent: far_node_of(numa_nodes())
  /// One line about memory that is not what its tier promises; empty: to stderr.
  std::function<void(std::string_view)> warn = {};
};

/// One arena for each tier of memory that a plan has bytes in. Pages of `pinned` are locked, and
/// touched, here; where the system refuses that they are used as they are, and one line says so.
/// Pages of `far` are of its node; where there is none beside this process's own, or the system
/// refuses, they are of any, and one line says so. Throws infeasible for one over its budget.
std::map<Tier, Arena> make_arenas(const Plan& plan,
                                  const Budgets& budgets,
                                  const MemoryConfig& config = {});

/// How many bytes this process may lock, of all that it locks together; absent: any.
std::optional<std::int64_t> lockable_bytes();

}  // namespace strata::offload
