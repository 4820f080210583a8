#pragma once
#include <map>

#include "core/pack.h"
#include "offload/planner.h"

namespace strata::offload {

/// Every pack in one arena of the device tier at its planned offset.
class ResidentStore final : public PackStore {
 public:
  /// Reserves the arena; throws infeasible over budget.
  ResidentStore(Plan plan, std::int64_t budget_bytes, Ledger& ledger);
  void create(PackKey key) override;
  void destroy(PackKey key) override;
  Lease acquire(PackKey key) override;
  void move(const Instruction& instruction) override;
  void commit(int block) override;
  void discard(int block) override;

 private:
  void release(PackKey key) noexcept override;
  std::span<std::byte> bytes_of(PackKey key) const;
  Plan plan_;
  Arena arena_;
  Ledger& ledger_;
  struct Live {
    std::int64_t offset = 0;
    int leases = 0;
  };
  std::map<PackKey, Live> live_;
};

}  // namespace strata::offload
