#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offload/nvme_checks.h"
#include "offload/nvme_file.h"
#include "offload/nvme_lane.h"
#include "offload/nvme_layout.h"
#include "offload/nvme_rates.h"
#include "offload/nvme_store.h"

namespace strata::offload {

/// The books of a store: which transfer of a slot is next, and what happens when one has ended.
/// Everything but files, warnings and faults is under one mutex, which lanes take once per
/// transfer.
class NvmeStore::State {
 public:
  State(NvmeConfig config, std::vector<ExtentSpec> extents);
  ~State();
  Ticket post(io::Direction direction, int extent, bool next, std::span<std::byte> bytes);
  void commit(int extent);
  void discard(int extent);
  void wait(Ticket ticket);
  bool done(Ticket ticket) const;
  void note_step();
  double share(int path) const;
  PathCounters counters(int path) const;
  NvmeLane& lane(int path) const { return *lanes_.at(static_cast<std::size_t>(path)); }

 private:
  struct Slot;
  struct Transfer : LaneTransfer {
    Ticket ticket = 0;
    Slot* where = nullptr;
    int open_parts = 0, last_path = 0, failed_path = 0;
    PartEnd end;
    bool done = false;
  };
  struct Slot {
    NvmeLayout::Slot layout;
    std::optional<BlockChecks> checks;
    bool written = false;
    bool torn = false;   // its last write failed
    bool fresh = false;  // written since it was current
    int active_reads = 0;
    bool active_write = false;
    std::deque<Transfer*> waiting;
  };
  struct Extent {
    std::string name;
    std::vector<Slot> slots;
    std::size_t current = 0;
  };

  void open_files();
  void place(const std::vector<ExtentSpec>& extents);
  void make_lanes();
  std::unique_ptr<NvmeLane> make_lane(std::size_t path);
  void warn_of_lanes();
  void warn(std::string_view text);
  bool grow(int path, std::int64_t size_bytes);

  Extent& extent(int number);
  Slot& other(int number);
  void start_ready(Slot& slot);
  void start(Transfer& transfer);
  void part_finished(Transfer& transfer, int path, PartEnd end);
  bool elsewhere(Transfer& transfer);
  void finish(Transfer& transfer);
  std::exception_ptr failure(const Transfer& transfer) const;
  std::string lost_names(int path) const;
  void observe();

  NvmeConfig config_;
  mutable std::mutex mutex_, fault_mutex_, warn_mutex_;
  std::condition_variable finished_;
  std::vector<std::unique_ptr<SwapFile>> files_;
  std::optional<NvmeLayout> layout_;
  NvmeRates rates_;
  std::vector<Extent> extents_;
  std::map<Ticket, Transfer> transfers_;
  std::vector<double> waited_seconds_;
  Ticket last_ = 0;
  std::int64_t unfinished_ = 0;
  bool counts_steps_ = false;
  std::vector<std::unique_ptr<NvmeLane>> lanes_;  // last: they end before what they use is gone
};

}  // namespace strata::offload
