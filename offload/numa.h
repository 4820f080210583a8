#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace strata::offload {

/// Memory with its own distance to the cores.
struct NumaNode {
  int number = 0;
  std::int64_t total_bytes = 0, free_bytes = 0;
  bool has_cores = true;  // expansion cards (CXL) have none
  bool here = false;      // this process computes beside it
};

/// The nodes that this process may use, by number; empty where the system does not tell. Found by
/// hwloc where this was built with it.
std::vector<NumaNode> numa_nodes();
/// The same as the kernel's files under `root` tell it; `core`: where this process computes.
std::vector<NumaNode> numa_nodes_listed(const std::filesystem::path& root, int core);

/// Where far memory is when nobody says: of the nodes that are not this process's own the first
/// without cores, else the first. Absent: there is no other.
std::optional<int> far_node_of(std::span<const NumaNode> nodes);

/// Pages of these bytes, of which none was touched, will be of that node alone. The span begins and
/// ends with a page. Returns what went wrong; empty: nothing.
std::string bind_to_node(std::span<std::byte> pages, int node);

}  // namespace strata::offload
