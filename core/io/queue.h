#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace strata::io {

enum class Direction : std::uint8_t { read, write };
struct Request {
  Direction direction = Direction::read;
  int fd = -1;
  std::int64_t offset = 0;
  std::span<std::byte> bytes;  // untouched by the caller until completed
  std::string path;            // for messages
};

/// Identifies a submitted request.
using Ticket = std::uint64_t;

/// Test seam: what the kernel's answer to the n-th operation becomes. Called with the operation and
/// its result (bytes, or -errno); returns the result to use. One call at a time, possibly on a
/// thread of the queue. Empty in production.
using FaultInjector = std::function<std::int64_t(const Request&, std::int64_t result)>;

/// Asynchronous reads and writes. Short transfers are continued, EINTR and EAGAIN retried; any
/// other error is thrown by wait() of that request as Errc::io. One thread owns a queue;
/// completions come in any order. The destructor drains.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual Ticket submit(Request request) = 0;
  /// Blocks until this request is complete and forgets it; rethrows its error. A ticket is waited
  /// for once.
  virtual void wait(Ticket ticket) = 0;
  /// Blocks until all are and forgets them; rethrows the first error in the order of submission.
  virtual void wait_all() = 0;
  virtual std::string_view engine() const = 0;  // "io_uring" | "threads"
};

struct QueueConfig {
  enum class Engine : std::uint8_t { automatic, uring, threads };
  Engine engine =
      Engine::automatic;  // automatic: io_uring if the kernel grants a ring, else threads
  int depth = 32;
  std::int64_t block_bytes = 1 << 20;  // larger requests are cut
  FaultInjector fault = {};
};
/// Throws config when a named engine is not available.
std::unique_ptr<Queue> make_queue(QueueConfig config = {});
bool uring_available();

}  // namespace strata::io
