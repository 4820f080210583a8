#pragma once
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <optional>
#include <span>

#include "core/io/queue.h"

namespace strata::io {

/// One operation for the kernel: what is left of a block of a request. `owner` outlives the
/// operation.
struct Operation {
  Ticket ticket = 0;
  const Request* owner = nullptr;
  std::int64_t offset = 0;
  std::span<std::byte> bytes;
};

/// The books of a queue, the same for every engine: requests cut into operations, short transfers
/// continued, EINTR and EAGAIN retried, errors kept for the waiter. Not thread-safe.
class Transfers {
 public:
  Transfers(std::int64_t block_bytes, FaultInjector fault)
      : block_bytes_(block_bytes), fault_(std::move(fault)) {}
  Ticket add(Request request);
  /// An operation to start now; the engine owes one complete() for it.
  std::optional<Operation> next();
  /// `result`: bytes moved, or -errno.
  void complete(const Operation& operation, std::int64_t result);
  bool waiting() const { return !waiting_.empty(); }
  bool done(Ticket ticket) const;
  bool all_done() const { return unfinished_ == 0; }
  /// Forgets a finished request; rethrows its error.
  void collect(Ticket ticket);
  /// Forgets all, which are finished; rethrows the first error in the order of submission.
  void collect_all();

 private:
  struct Entry {
    Request request;
    std::int64_t open = 0;  // operations not completed, started or not
    std::exception_ptr error;
  };
  void close(Entry& entry);
  std::int64_t block_bytes_;
  FaultInjector fault_;
  std::map<Ticket, Entry> entries_;  // nodes do not move: operations point into them
  std::deque<Operation> waiting_;
  std::int64_t unfinished_ = 0;
  Ticket last_ = 0;
};

/// Engines, behind make_queue.
std::unique_ptr<Queue> make_uring_queue(QueueConfig config);
std::unique_ptr<Queue> make_thread_queue(QueueConfig config);

}  // namespace strata::io
