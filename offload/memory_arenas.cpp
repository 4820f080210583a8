#include "offload/memory_arenas.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "offload/numa.h"

namespace strata::offload {
namespace {

void say(const MemoryConfig& config, const std::string& text) {
  if (config.warn) {
    config.warn(text);
  } else {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
}

void lock(std::span<std::byte> pages, const MemoryConfig& config) {
  if (::mlock(pages.data(), pages.size()) == 0) {
    return;
  }
  const int error = errno;
  ::munlock(pages.data(), pages.size());  // all or nothing
  const auto bytes = static_cast<std::int64_t>(pages.size());
  const auto limit = lockable_bytes();
  say(config,
      fmt::format("memory.pinned: {} are used without being locked ({}): {} may be locked; raise "
                  "the limit on locked memory (ulimit -l {}), or lower memory.pinned",
                  bytes_text(bytes),
                  std::strerror(error),
                  limit ? bytes_text(*limit) + " at most" : "any number of bytes",
                  (bytes + 1023) / 1024));
}

void bind(std::span<std::byte> pages, const MemoryConfig& config) {
  const std::optional<int> node = config.far_node ? config.far_node : far_node_of(numa_nodes());
  if (!node) {
    return say(config,
               fmt::format("memory.far: this machine has one node of memory alone; the {} of far "
                           "are of it",
                           bytes_text(static_cast<std::int64_t>(pages.size()))));
  }
  if (const std::string wrong = bind_to_node(pages, *node); !wrong.empty()) {
    say(config,
        fmt::format("memory.far: {} are not bound to node {} ({}); they are wherever the system "
                    "puts them: strata doctor lists the nodes that can be named in memory.far_node",
                    bytes_text(static_cast<std::int64_t>(pages.size())),
                    *node,
                    wrong));
  }
}

}  // namespace

std::optional<std::int64_t> lockable_bytes() {
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return known ? std::optional(static_cast<std::int64_t>(limit.rlim_cur)) : std::nullopt;
}

std::map<Tier, Arena> make_arenas(const Plan& plan,
                                  const Budgets& budgets,
                                  const MemoryConfig& config) {
  std::map<Tier, Arena> arenas;
  for (const auto& [tier, planned] : plan.tiers) {
    if (tier.kind == TierKind::nvme) {
      continue;
    }
    const auto budget = budgets.find(tier);
    const std::int64_t allowed = budget == budgets.end() ? 0 : budget->second;
    const Arena& arena =
        arenas.emplace(tier, Arena(tier, planned.arena_bytes, allowed)).first->second;
    if (arena.size_bytes() == 0) {
      continue;
    }
    const std::span<std::byte> pages = arena.range(0, arena.size_bytes());
    if (tier.kind == TierKind::pinned) {
      lock(pages, config);
    } else if (tier.kind == TierKind::far) {
      bind(pages, config);
    }
  }
  return arenas;
}

}  // namespace strata::offload
