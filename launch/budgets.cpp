#include "launch/budgets.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/error.h"
#include "core/runtime.h"
#include "offload/memory_arenas.h"
#include "offload/transfers.h"

namespace strata::launch {
namespace {

using Amount = MemorySettings::Amount;
using Device = MemorySettings::Device;
using offload::bytes_text;

constexpr Tier kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0}, kFar{TierKind::far, 0};

/// A tenth is left to the system.
std::int64_t usable(std::int64_t free_bytes) {
  return free_bytes - free_bytes / 10;
}

std::string list_of(std::span<const offload::NumaNode> nodes) {
  std::string text;
  for (const offload::NumaNode& node : nodes) {
    text += fmt::format(
        "{}{} with {}", text.empty() ? "" : ", ", node.number, bytes_text(node.total_bytes));
  }
  return text.empty() ? "none that the system tells of" : text;
}

}  // namespace

std::optional<int> far_node(const MemorySettings& memory,
                            std::span<const offload::NumaNode> nodes) {
  const std::optional<int> number = memory.far_node ? memory.far_node : offload::far_node_of(nodes);
  const auto node = std::ranges::find_if(
      nodes, [&](const offload::NumaNode& n) { return number && n.number == *number; });
  if (memory.far_node && node == nodes.end()) {
    throw Error(Errc::config,
                fmt::format("memory.far_node: there is no node {}; the nodes of this machine are "
                            "{}; name one of them, or auto",
                            *number,
                            list_of(nodes)));
  }
  if (node != nodes.end() && memory.far.bytes > node->total_bytes) {
    throw Error(Errc::config,
                fmt::format("memory.far: {} are more than node {} has, {}; lower it, or name "
                            "another node in memory.far_node",
                            bytes_text(memory.far.bytes),
                            node->number,
                            bytes_text(node->total_bytes)));
  }
  return number;
}

offload::Budgets memory_budgets(const MemorySettings& memory,
                                std::int64_t device_bytes,
                                int neighbours,
                                std::span<const offload::NumaNode> nodes) {
  const Amount host{memory.host, memory.host_bytes};
  offload::Budgets budgets;
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  std::int64_t left = usable(free) / neighbours - std::max<std::int64_t>(0, device_bytes);
  for (const auto& [tier, amount] :
       {std::pair(kPinned, memory.pinned), std::pair(kHost, host), std::pair(kFar, memory.far)}) {
    if (amount.how != Device::automatic) {
      budgets[tier] = amount.how == Device::minimum ? offload::kLeast : amount.bytes / neighbours;
      left -= std::max<std::int64_t>(0, budgets[tier]);
    }
  }
  const auto take = [&](Tier tier, const Amount& amount, std::int64_t most) {
    if (amount.how == Device::automatic && !budgets.contains(tier)) {
      budgets[tier] = std::clamp<std::int64_t>(left, 0, std::max<std::int64_t>(0, most));
      left -= budgets[tier];
    }
  };
  const std::int64_t all = std::max<std::int64_t>(0, left);
  take(kPinned, memory.pinned, std::min(all / 2, offload::lockable_bytes().value_or(all)));
  const std::optional<int> number = far_node(memory, nodes);
  if (const auto node = std::ranges::find_if(
          nodes, [&](const offload::NumaNode& n) { return number && n.number == *number; });
      node != nodes.end()) {
    take(kFar, memory.far, usable(node->free_bytes) / neighbours);
  }
  take(kHost, host, all);
  take(kFar, memory.far, all);
  std::erase_if(budgets, [](const auto& budget) { return budget.second == 0; });
  budgets[Tier()] = device_bytes;
  return budgets;
}

}  // namespace strata::launch
