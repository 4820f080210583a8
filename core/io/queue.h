#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
/// Returned by a FaultInjector: as if the kernel had not answered and never will.
constexpr std::int64_t kNoAnswer = std::numeric_limits<std::int64_t>::min();

/// How often and how long an operation is tried before its request fails.
struct Patience {
  std::int64_t alignment = 1;  // a short transfer is continued at a multiple of it
  int idle_tries = 8;          // answers in a row that bring no such multiple further
  int busy_tries = 1000;       // EAGAIN, EBUSY; EINTR has no limit
  // Between these tries; it doubles.
  std::chrono::microseconds first_pause{50}, longest_pause{20'000};
  // Before each further try after EIO, ENODEV or EREMOTEIO.
  std::vector<std::chrono::milliseconds> device_pauses = {};
  // An operation without an answer is cancelled after it and given up a tenth of a second later,
  // though the kernel may still use its bytes; 0: never.
  std::chrono::milliseconds timeout{0};
};

enum class Trouble : std::uint8_t { none, refused, busy, file_ends, no_progress, no_answer };
/// How a request ended.
struct Outcome {
  Ticket ticket = 0;
  Trouble trouble = Trouble::none;
  int error_number = 0;           // refused, busy: what the kernel said last
  std::exception_ptr error = {};  // what wait() would have thrown
};

/// What happened beside plain transfers, and how often an io_uring entered the kernel.
struct QueueCounts {
  std::int64_t short_transfers = 0, retries = 0, kernel_entries = 0;
};

/// Asynchronous reads and writes. Short transfers are continued, EINTR, EAGAIN and EBUSY retried;
/// any other error is thrown by wait() of that request as Errc::io. One thread owns a queue;
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
  /// Blocks until a request is complete, wake() was called or `until` has come. Forgets one
  /// complete request, in the order of completion; its ticket is used up. `answers`: what the
  /// caller waits for cannot happen before so many operations have completed; sleeping for several
  /// at once saves entries into the kernel and delays a wake() by some milliseconds at most.
  virtual std::optional<Outcome> next_finished(std::chrono::steady_clock::time_point until,
                                               std::int64_t answers = 1) = 0;
  /// Ends the current or the next next_finished(). From any thread.
  virtual void wake() = 0;
  virtual QueueCounts counts() const = 0;
  virtual std::string_view engine() const = 0;  // "io_uring" | "threads"
  /// Why buffers were not registered: the system's reason; empty when none was refused.
  virtual std::string_view buffers_refused() const = 0;
};

struct QueueConfig {
  enum class Engine : std::uint8_t { automatic, uring, threads };
  Engine engine =
      Engine::automatic;  // automatic: io_uring if the kernel grants a ring, else threads
  int depth = 32;
  std::int64_t block_bytes = 1 << 20;  // larger requests are cut
  FaultInjector fault = {};
  Patience patience = {};
  // Requests are handed to the kernel by the next wait or next_finished(), many at once.
  bool batched = false;
  // Known to the kernel from the start: memory that most requests lie in, files that they use.
  std::vector<std::span<std::byte>> buffers = {};
  std::vector<int> files = {};
};
/// Throws config when a named engine is not available.
std::unique_ptr<Queue> make_queue(QueueConfig config = {});
bool uring_available();

}  // namespace strata::io
