#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/handle.h"

namespace strata {

enum class TierKind : std::uint8_t { device, pinned, host, far, nvme, peer };
/// A place for bytes. `index` tells several of a kind apart (nvme paths, NUMA nodes).
struct Tier {
  TierKind kind = TierKind::device;
  int index = 0;
  friend auto operator<=>(const Tier&, const Tier&) = default;
};
/// "device", "nvme1".
std::string to_string(Tier tier);

/// Bytes by tier and label, current and peak. Thread-safe.
class Ledger {
 public:
  void add(Tier tier, std::string_view label, std::int64_t size_bytes);
  void subtract(Tier tier, std::string_view label, std::int64_t size_bytes);
  std::int64_t current(Tier tier) const;
  std::int64_t peak(Tier tier) const;
  struct Bytes {
    std::int64_t current = 0, peak = 0;
  };
  /// Every label ever used on this tier.
  std::map<std::string, Bytes, std::less<>> labels(Tier tier) const;

 private:
  struct TierBytes {
    Bytes total;
    std::map<std::string, Bytes, std::less<>> labels;
  };
  mutable std::mutex mutex_;
  std::map<Tier, TierBytes> tiers_;
};

struct Mapping {
  std::byte* data = nullptr;
  std::size_t size = 0;
  friend bool operator==(const Mapping&, const Mapping&) = default;
};
struct MappingTraits {
  using type = Mapping;
  static type null() noexcept { return {}; }
  static void destroy(type mapping) noexcept;
};

/// One contiguous, page-aligned region of host memory with huge pages asked for. Untouched pages
/// cost nothing. Every buffer of a run is a planned range of one arena per tier.
class Arena {
 public:
  Arena() = default;
  /// Throws infeasible, naming tier, need and budget, when size exceeds the budget; io when the
  /// system refuses the mapping.
  Arena(Tier tier, std::int64_t size_bytes, std::int64_t budget_bytes);
  std::span<std::byte> range(std::int64_t offset, std::int64_t size_bytes) const;
  std::int64_t size_bytes() const { return static_cast<std::int64_t>(mapping_.get().size); }
  Tier tier() const { return tier_; }

 private:
  Tier tier_;
  Handle<MappingTraits> mapping_;
};

}  // namespace strata
