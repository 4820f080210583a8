#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/pack.h"
#include "core/program.h"
#include "core/residency.h"
#include "offload/copy_lane.h"
#include "offload/memory_arenas.h"
#include "offload/nvme_store.h"
#include "offload/planner.h"
#include "offload/simulator.h"

namespace strata::offload {

/// How long the thread that computes waited for transfers.
struct Waits {
  std::int64_t count = 0;  // transfers that were late
  double seconds = 0;
};

/// Every replica at its planned place: one arena for each tier of memory. Transfers run on lanes,
/// one thread each, beside the thread that computes; nothing is decided here. The ledger counts
/// what is alive.
class TieredStore final : public PackStore {
 public:
  /// Of copies between tiers of memory: bytes per second at most; absent: as fast as it goes.
  using Paces = std::map<Link, double>;
  /// Reserves the arenas (make_arenas), and files for what the plan has in nvme; throws infeasible
  /// when one is over its budget, and what NvmeStore throws.
  TieredStore(const Plan& plan,
              const Budgets& budgets,
              Ledger& ledger,
              NvmeConfig nvme = {},
              const Paces& paces = {},
              const MemoryConfig& memory = {});
  ~TieredStore() override;
  /// Other places, of which no replica that is alive has another than before; the arenas stay.
  void adopt(const Plan& plan);
  void start(const Instruction& move) override;
  void finish(const Instruction& move) override;
  void commit(int block, Tier tier) override;
  void discard(int block, Tier tier) override;
  /// By class of pack.
  const std::map<PackClass, Waits>& waits() const { return waits_; }
  /// Of files, by the transfers that were started.
  struct FileBytes {
    std::int64_t read = 0, written = 0;
  };
  const FileBytes& file_bytes() const { return file_bytes_; }
  /// Of the files; absent: there are none.
  const NvmeStore* nvme() const { return nvme_.get(); }
  /// Once per step.
  void note_step();

 private:
  /// A replica with a planned place, alive or not; of one that moves bring, where it is now.
  struct Place {
    Replica replica;
    std::int64_t own = -1;  // offset of the pack's own place; -1: it has none
    std::int64_t size_bytes = 0;
    std::int64_t offset = 0;
    int extent = -1;          // in nvme
    std::int64_t ticket = 0;  // of the transfer under way into it
  };
  void create_replica(const Replica& replica) override;
  void destroy_replica(const Replica& replica) override;
  Lease lease(const Replica& replica, Access access) override;
  void release(const Replica& replica, Access access) noexcept override;

  Place* find(const Replica& replica);
  Place& place_of(const Replica& replica);
  std::span<std::byte> bytes_of(const Place& place) const;
  void count(const Place& place, bool added);
  std::vector<Place> places_of(const Plan& plan) const;
  void copy(Place& to, const Place& from);
  CopyLane& lane(const Place& from, const Place& to);
  bool arrived(const Place& to, const Place& from);
  void wait(const Place& to, const Place& from);
  void make_current(PackClass next, PackClass current, int block, Tier tier);

  Ledger& ledger_;
  std::map<Tier, Arena> arenas_;
  std::vector<Place> places_;  // by replica
  Residency residency_;
  std::map<PackClass, Waits> waits_;
  FileBytes file_bytes_;
  std::map<Link, CopyLane> copies_;  // beside each other, as the simulator has them
  std::unique_ptr<NvmeStore> nvme_;  // its lanes end before the memory they use
};

}  // namespace strata::offload
