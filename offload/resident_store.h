#pragma once
#include <vector>

#include "core/pack.h"
#include "offload/planner.h"

namespace strata::offload {

/// Every pack in one arena of the device tier at its planned offset.
class ResidentStore final : public PackStore {
 public:
  /// Reserves the arena; throws infeasible over budget.
  ResidentStore(const Plan& plan, std::int64_t budget_bytes, Ledger& ledger);
  /// Other places, of which no pack that is alive has another than before; the arena stays.
  void adopt(const Plan& plan);
  void create(PackKey key) override;
  void destroy(PackKey key) override;
  Lease acquire(PackKey key) override;
  void move(const Instruction& instruction) override;
  void commit(int block) override;
  void discard(int block) override;

 private:
  void release(PackKey key) noexcept override;
  /// A pack of the plan, alive or not.
  struct Place {
    PackKey key;
    std::int64_t offset = 0, size_bytes = 0;
    bool live = false;
    int leases = 0;
  };
  /// Absent: the plan has no such pack.
  Place* find(PackKey key);
  /// Throws internal unless the pack is alive.
  Place& resident(PackKey key);
  std::span<std::byte> bytes_of(const Place& place) const;
  static std::vector<Place> places_of(const Plan& plan);
  Arena arena_;
  Ledger& ledger_;
  std::vector<Place> places_;  // by key; made once, so that a step allocates nothing
};

}  // namespace strata::offload
