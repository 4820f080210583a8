// Nodes of memory as hwloc sees them: those alone that this process may use.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <hwloc.h>
#include <sched.h>

#include "core/handle.h"
#include "offload/numa.h"

namespace strata::offload {
namespace {

struct TopologyTraits {
  using type = hwloc_topology_t;
  static type null() noexcept { return nullptr; }
  static void destroy(type topology) noexcept { ::hwloc_topology_destroy(topology); }
};
using Topology = Handle<TopologyTraits>;

/// Of cores and memory alone; null where it cannot be read.
Topology topology() {
  hwloc_topology_t made = nullptr;
  if (::hwloc_topology_init(&made) != 0) {
    return {};
  }
  Topology topology(made);
  ::hwloc_topology_set_all_types_filter(made, HWLOC_TYPE_FILTER_KEEP_NONE);
  return ::hwloc_topology_load(made) == 0 ? std::move(topology) : Topology();
}

}  // namespace

std::vector<NumaNode> numa_nodes() {
  const int core = ::sched_getcpu();
  const Topology all = topology();
  std::vector<NumaNode> listed = numa_nodes_listed("/sys/devices/system/node", core), nodes;
  hwloc_obj_t at = nullptr;
  while (all && (at = ::hwloc_get_next_obj_by_type(all.get(), HWLOC_OBJ_NUMANODE, at)) != nullptr) {
    const int number = static_cast<int>(at->os_index);
    const auto known = std::ranges::find(listed, number, &NumaNode::number);
    nodes.push_back(
        {.number = number,
         .total_bytes = static_cast<std::int64_t>(at->attr->numanode.local_memory),
         .free_bytes = known == listed.end() ? 0 : known->free_bytes,
         .has_cores = ::hwloc_bitmap_iszero(at->cpuset) == 0,
         .here = core >= 0 && ::hwloc_bitmap_isset(at->cpuset, static_cast<unsigned>(core)) != 0});
  }
  std::ranges::sort(nodes, {}, &NumaNode::number);
  return nodes;
}

std::string bind_to_node(std::span<std::byte> pages, int node) {
  const Topology all = topology();
  const hwloc_obj_t of = all && node >= 0 ? ::hwloc_get_numanode_obj_by_os_index(
                                                all.get(), static_cast<unsigned>(node))
                                          : nullptr;
  if (of == nullptr) {
    return std::strerror(EINVAL);
  }
  const int done = ::hwloc_set_area_membind(all.get(),
                                            pages.data(),
                                            pages.size(),
                                            of->nodeset,
                                            HWLOC_MEMBIND_BIND,
                                            HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_STRICT);
  return done == 0 ? "" : std::strerror(errno);
}

}  // namespace strata::offload
