#include "offload/numa.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace strata::offload {
namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Of "0-3,8": absent for anything else.
std::vector<std::pair<int, int>> ranges_of(std::string_view list) {
  std::vector<std::pair<int, int>> ranges;
  const char *at = list.data(), *const end = at + list.size();
  while (at < end) {
    int first = 0, last = 0;
    const auto one = std::from_chars(at, end, first);
    if (one.ec != std::errc()) {
      break;
    }
    last = first;
    at = one.ptr;
    if (at < end && *at == '-') {
      at = std::from_chars(at + 1, end, last).ptr;
    }
    ranges.emplace_back(first, last);
    at += at < end && *at == ',' ? 1 : 0;
  }
  return ranges;
}

/// "Node 0 MemTotal:       65665432 kB".
std::int64_t bytes_of(const std::string& meminfo, std::string_view name) {
  const std::size_t at = meminfo.find(name);
  return at == std::string::npos
             ? 0
             : std::strtoll(meminfo.c_str() + at + name.size(), nullptr, 10) * 1024;
}

}  // namespace

std::vector<NumaNode> numa_nodes_listed(const std::filesystem::path& root, int core) {
  std::vector<NumaNode> nodes;
  for (const auto& [first, last] : ranges_of(text_of(root / "online"))) {
    for (int number = first; number <= last; ++number) {
      const std::filesystem::path folder = root / ("node" + std::to_string(number));
      const std::string memory = text_of(folder / "meminfo");
      const std::int64_t total = bytes_of(memory, "MemTotal:");
      const auto cores = ranges_of(text_of(folder / "cpulist"));
      const bool here = std::ranges::any_of(
          cores, [&](const auto& r) { return r.first <= core && core <= r.second; });
      if (total > 0) {
        nodes.push_back({number, total, bytes_of(memory, "MemFree:"), !cores.empty(), here});
      }
    }
  }
  return nodes;
}

std::optional<int> far_node_of(std::span<const NumaNode> nodes) {
  std::optional<int> other;
  for (const NumaNode& node : nodes) {
    if (node.here) {
      continue;
    }
    if (!node.has_cores) {
      return node.number;
    }
    other = other.value_or(node.number);
  }
  return other;
}

}  // namespace strata::offload
