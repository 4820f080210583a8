#include "core/cpu/memory_info.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::cpu {

namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

/// The number after `key` on its line: "MemAvailable:   123 kB", "inactive_file 123".
std::optional<std::int64_t> number_of(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    std::int64_t value = 0;
    if (word == key && in >> value) {
      return value;
    }
  }
  return std::nullopt;
}

/// The number a file consists of; nothing for "max" or a missing file.
std::optional<std::int64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  std::uint64_t value = 0;  // v1 writes "no limit" as a number near 2^63
  if (!(in >> value)) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(std::min<std::uint64_t>(value, kNoLimit));
}

struct Files {
  const char *limit, *usage, *reclaimable;
};
constexpr Files kV2{"memory.max", "memory.current", "inactive_file"};
constexpr Files kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};

/// Tightens `info` by one cgroup. File pages that nobody used lately count as usage there, but the
/// kernel drops them before it refuses memory.
void apply_limit(MemoryInfo& info, const fs::path& group, const Files& files) {
  const auto limit = number_in(group / files.limit);
  const auto usage = number_in(group / files.usage);
  if (!limit || !usage) {
    return;
  }
  const std::int64_t reclaimable = number_of(group / "memory.stat", files.reclaimable).value_or(0);
  const std::int64_t used = std::max<std::int64_t>(0, *usage - reclaimable);
  info.total_bytes = std::min(info.total_bytes, *limit);
  info.free_bytes = std::min(info.free_bytes, std::max<std::int64_t>(0, *limit - used));
}

/// A limit of any ancestor binds. In a container the process's path may not exist below the mount,
/// whose root is then its own group.
void apply_limits(MemoryInfo& info, const fs::path& mount, fs::path group, const Files& files) {
  for (group = group.relative_path();; group = group.parent_path()) {
    apply_limit(info, mount / group, files);
    if (group.empty()) {
      return;
    }
  }
}

}  // namespace

MemoryInfo host_memory_info(const fs::path& root) {
  const fs::path meminfo = root / "proc/meminfo";
  const auto total = number_of(meminfo, "MemTotal:");
  const auto available = number_of(meminfo, "MemAvailable:");
  if (!total || !available) {
    throw Error(Errc::io,
                "memory: MemTotal and MemAvailable are needed from " + meminfo.string() +
                    ", which does not have them; mount /proc or set the budgets in memory.*");
  }
  MemoryInfo info{.free_bytes = *available * 1024, .total_bytes = *total * 1024};
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const fs::path path = line.substr(second + 1);
    if (controllers == ",,") {
      apply_limits(info, root / "sys/fs/cgroup", path, kV2);
    } else if (controllers.find(",memory,") != std::string::npos) {
      apply_limits(info, root / "sys/fs/cgroup/memory", path, kV1);
    }
  }
  return info;
}

}  // namespace strata::cpu
