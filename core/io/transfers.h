#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/io/queue.h"

namespace strata::io {

using Clock = std::chrono::steady_clock;

/// One operation for the kernel: what is left of a block of a request.
struct Operation {
  std::uint64_t id = 0;  // of this try
  Ticket ticket = 0;
  Direction direction = Direction::read;
  int fd = -1;
  std::int64_t offset = 0;
  std::span<std::byte> bytes;
  int idle_tries = 0, busy_tries = 0, device_tries = 0;
};

/// The books of a queue, the same for every engine: requests cut into operations, short transfers
/// continued, what may pass tried again after a pause, operations without an answer given up,
/// errors kept for the waiter. Not thread-safe.
class Transfers {
 public:
  explicit Transfers(const QueueConfig& config)
      : block_bytes_(config.block_bytes), fault_(config.fault), patience_(config.patience) {}
  Ticket add(Request request);
  /// An operation to start now; the engine owes one complete() for it.
  std::optional<Operation> next(Clock::time_point now);
  /// `result`: bytes moved, or -errno. Of an operation that was given up, nothing happens.
  void complete(std::uint64_t id, std::int64_t result, Clock::time_point now);
  /// Whether next() has an operation.
  bool waiting(Clock::time_point now) const;
  /// Started and not completed.
  std::size_t flying() const { return flying_.size(); }
  /// When waiting() may become true or give_up() has to be called, if nothing else happens.
  Clock::time_point due() const;
  /// Ends operations that had no answer for too long; those that should be cancelled first.
  std::vector<std::uint64_t> give_up(Clock::time_point now);
  /// Operations given up whose bytes the kernel may still use.
  std::int64_t lost() const { return lost_; }
  bool done(Ticket ticket) const;
  bool all_done() const { return unfinished_ == 0; }
  std::size_t finished() const { return finished_.size(); }
  /// Forgets a finished request; rethrows its error.
  void collect(Ticket ticket);
  /// Forgets all, which are finished; rethrows the first error in the order of submission.
  void collect_all();
  /// Forgets the request that finished first.
  std::optional<Outcome> collect_next();
  QueueCounts counts() const { return counts_; }

 private:
  struct Entry {
    Request request;
    std::int64_t open = 0;  // operations not completed, started or not
    Outcome outcome;
  };
  struct Flight {
    Operation operation;
    Clock::time_point started;
    bool cancelled = false, answered = false;  // answered: only an injected fault withholds it
  };
  struct Later {
    Clock::time_point at;
    Operation operation;
  };
  void again(Operation operation, Clock::time_point at);
  void again_from(const Operation& operation, std::int64_t moved);
  void refused(Operation operation, int error_number, Clock::time_point now);
  void fail(const Operation& operation, Trouble trouble, int error_number);
  void close(Ticket ticket, Entry& entry);
  std::int64_t block_bytes_;
  FaultInjector fault_;
  Patience patience_;
  std::map<Ticket, Entry> entries_;
  std::map<std::uint64_t, Flight> flying_;  // ids grow: the first started first
  std::deque<Operation> waiting_;
  std::vector<Later> later_;
  std::deque<Ticket> finished_;
  QueueCounts counts_;
  std::int64_t unfinished_ = 0, lost_ = 0;
  Ticket last_ = 0;
  std::uint64_t last_id_ = 0;
};

/// Engines, behind make_queue.
std::unique_ptr<Queue> make_uring_queue(QueueConfig config);
std::unique_ptr<Queue> make_thread_queue(QueueConfig config);

}  // namespace strata::io
