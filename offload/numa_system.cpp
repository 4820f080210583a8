// Nodes of memory without hwloc: the kernel's files and its own call.
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "offload/numa.h"

namespace strata::offload {

std::vector<NumaNode> numa_nodes() {
  return numa_nodes_listed("/sys/devices/system/node", ::sched_getcpu());
}

std::string bind_to_node(std::span<std::byte> pages, int node) {
  constexpr int kWord = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, 1024 / kWord> mask{};
  if (node < 0 || node >= 1024) {
    return std::strerror(EINVAL);
  }
  mask[static_cast<std::size_t>(node / kWord)] = 1ul << (node % kWord);
  const long done =
      ::syscall(SYS_mbind, pages.data(), pages.size(), MPOL_BIND, mask.data(), 1024 + 1, 0);
  return done == 0 ? "" : std::strerror(errno);
}

}  // namespace strata::offload
