#pragma once
#include <span>

#include "launch/config.h"
#include "offload/numa.h"
#include "offload/planner.h"

namespace strata::launch {

/// Of device memory (`device_bytes`, or kLeast) and of the memory where nothing computes, for one
/// of `neighbours` ranks of a machine. What is `auto` shares what others leave of what is free:
/// locked memory first, as much as this process may lock and half of it at most, then far memory
/// with a node of its own, then host, then far memory beside it.
offload::Budgets memory_budgets(const MemorySettings& memory,
                                std::int64_t device_bytes,
                                int neighbours,
                                std::span<const offload::NumaNode> nodes);

/// The node of far memory; absent: there is none beside this process's own. Throws config, naming
/// the nodes there are, for one that does not exist or is smaller than memory.far.
std::optional<int> far_node(const MemorySettings& memory, std::span<const offload::NumaNode> nodes);

}  // namespace strata::launch
