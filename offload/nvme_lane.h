#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/io/queue.h"
#include "offload/nvme_checks.h"
#include "offload/nvme_file.h"
#include "offload/nvme_layout.h"
#include "offload/nvme_pace.h"
#include "offload/nvme_store.h"

namespace strata::offload {

/// What a lane needs of a transfer: its units on that path are moved, all others left alone.
struct LaneTransfer {
  io::Direction direction = io::Direction::read;
  std::span<std::byte> bytes;
  const NvmeLayout::Slot* slot = nullptr;  // unchanged until all lanes are done with it
  BlockChecks* checks = nullptr;
  std::string_view name;
};

/// How a lane's part of a transfer ended.
struct PartEnd {
  enum class Kind : std::uint8_t { good, path_failed, path_full, bad_bytes, error };
  Kind kind = Kind::good;
  std::exception_ptr error = {};
};

struct LaneConfig {
  int path = 0;
  std::int64_t stripe_bytes = 0, check_bytes = 0;
  bool allow_buffered = true, shared_pace = false;
  NvmePath settings;
  io::QueueConfig queue;  // without files
  std::function<void(std::string_view)> warn;
  /// On the lane's thread, once for each posted transfer, without any lock of the lane.
  std::function<void(LaneTransfer&, int path, PartEnd)> finished;
};

/// Moves bytes between memory and the file of one path on a thread of its own: reads first, with a
/// quarter of the slots for writes; at the path's pace; checked.
class NvmeLane {
 public:
  /// The file is reserved; a trial read finds out whether direct transfers work.
  NvmeLane(SwapFile& file, LaneConfig config);
  /// All that was posted has finished.
  ~NvmeLane();
  NvmeLane(const NvmeLane&) = delete;
  NvmeLane& operator=(const NvmeLane&) = delete;

  void post(LaneTransfer& transfer);
  void set_pace(double read, double write);
  PathCounters counters() const;
  std::string_view engine() const { return queue_->engine(); }
  std::string_view buffers_refused() const { return queue_->buffers_refused(); }

 private:
  using Clock = std::chrono::steady_clock;
  /// This path's part of a transfer: what is not started begins at `unit`, `at` bytes in.
  struct Part {
    LaneTransfer* transfer = nullptr;
    std::size_t unit = 0;
    std::int64_t at = 0;
    int open = 0;                 // chunks under way
    std::int64_t left_bytes = 0;  // not moved
    bool started = false;         // all of them
    PartEnd end;
  };
  using Parts = std::list<Part>;
  /// What is asked of the queue at once.
  struct Chunk {
    Parts::iterator part;
    std::int64_t begin = 0, size = 0;  // in the slot
    std::int64_t offset = 0;           // in the file
    bool buffered = false;
    bool diagnosis = false;  // buffered because it was refused past the page cache
    int reads_again = 0;
  };

  void try_direct();
  void run();
  bool take_posted();
  void start_chunks();
  bool start_one(std::size_t direction);
  Parts::iterator startable(std::size_t direction);
  bool next_chunk(Part& part, Chunk& chunk) const;
  void submit(const Chunk& chunk);
  void take(const io::Outcome& outcome);
  void moved(Chunk chunk);
  void refused(Chunk chunk, const io::Outcome& outcome);
  void stop_direct(std::string_view reason);
  void spoil(Part& part, PartEnd end);
  void settle(Parts::iterator part);
  void fail_path(const std::exception_ptr& error);
  std::int64_t bytes_here(const NvmeLayout::Slot& slot) const;
  std::int64_t answers_until_news() const;
  std::int64_t operations(std::int64_t size_bytes) const;
  void note_busy(Clock::time_point now);

  SwapFile& file_;
  LaneConfig config_;
  std::optional<NvmeArbiter> arbiter_;
  std::int64_t chunk_bytes_;
  std::unique_ptr<io::Queue> queue_;

  // The lane's thread only.
  bool direct_ = false;
  std::exception_ptr failure_;  // of the path
  std::array<Parts, 2> parts_;  // by direction, in the order of posting
  std::map<io::Ticket, Chunk> flying_;
  std::array<std::int64_t, 2> flying_operations_{};
  bool wrote_last_ = false;
  Clock::time_point due_;
  Clock::time_point busy_since_;
  bool busy_ = false;

  mutable std::mutex mutex_;
  std::vector<LaneTransfer*> posted_;
  std::array<Pace, 2> pace_;
  PathCounters counters_;
  bool stop_ = false;
  std::jthread thread_;  // last: it ends before what it uses is gone
};

}  // namespace strata::offload
