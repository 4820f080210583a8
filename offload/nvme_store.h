#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/queue.h"

namespace strata::offload {

/// Of which 1 MiB blocks a CRC-32C is kept in memory and compared: sample: of one in 16.
enum class Verify : std::uint8_t { off, sample, all };

struct NvmePath {
  std::filesystem::path directory;
  std::int64_t budget_bytes = 0;
  double read_rate = 0, write_rate = 0;  // bytes per second, measured; 0: unknown
  std::int64_t block_bytes = 1 << 20;
  int depth = 32;
  double pace_read = 0, pace_write = 0;  // bytes per second at most; 0: as fast as it goes
  std::int64_t alignment_bytes = 0;      // of direct transfers; 0: asked of the file system
};

struct ExtentSpec {
  std::string name;  // for messages: "state of block 3"
  std::int64_t size_bytes = 0;
  int generations = 1;  // 2: write_next, commit, discard
};

struct NvmeConfig {
  std::vector<NvmePath> paths;
  int rank = 0;
  Verify verify = Verify::sample;
  std::int64_t stripe_bytes = 4 << 20;
  io::QueueConfig::Engine engine = io::QueueConfig::Engine::automatic;
  std::chrono::milliseconds timeout{30'000};  // of one operation
  // Before each further try of what a device refused (EIO); then its path has failed.
  std::vector<std::chrono::milliseconds> device_pauses{std::chrono::milliseconds(100),
                                                       std::chrono::milliseconds(1000),
                                                       std::chrono::milliseconds(3000)};
  bool direct = true;          // past the page cache
  bool allow_buffered = true;  // through it, where direct transfers are refused
  // The pace of a path is that of all processes on this machine whose stores use the directory.
  bool shared_pace = false;
  // Besides transfers it sees, without bytes: reads with fd -1, the opening of a file for direct
  // transfers; writes, the reservation of a file's bytes.
  io::FaultInjector fault = {};
  // Memory that transfers mostly use, made known to the kernel. The spans outlive the store.
  std::span<const std::span<std::byte>> registered = {};
  // One line about a way that is slower than the usual; empty: to stderr.
  std::function<void(std::string_view)> warn = {};
};

struct PathCounters {
  std::int64_t bytes_read = 0, bytes_written = 0;  // moved, with what was moved again
  std::int64_t reads = 0, writes = 0;              // requests
  std::int64_t retries = 0, short_io = 0, crc_failures = 0;
  std::int64_t kernel_entries = 0;  // of an io_uring
  double busy_seconds = 0;          // with work that was posted and not finished
  double waited_seconds = 0;        // that wait() slept for what this path finished last
  bool failed = false;
};

/// Extents of bytes in one file per path, `swap.<rank>.<path>.bin`, reserved when the store is made
/// and gone with it: memory, not a checkpoint. An extent lies in units of stripe_bytes over the
/// paths, in proportion to their rates. One thread posts and waits; one thread per path moves
/// bytes. Transfers of one slot of an extent happen as if in the order of posting, others overlap.
/// Spans are whole extents, at multiples of 4096, and stay until their ticket is waited for.
class NvmeStore {
 public:
  using Ticket = std::uint64_t;

  /// Throws infeasible naming the missing bytes when extents exceed the budgets; io naming need and
  /// free bytes when a file system does not have them; config when a living process uses the files.
  /// Files of dead processes in these directories are removed.
  NvmeStore(NvmeConfig config, std::vector<ExtentSpec> extents);
  ~NvmeStore();
  NvmeStore(const NvmeStore&) = delete;
  NvmeStore& operator=(const NvmeStore&) = delete;

  /// The current generation. Of what was never written the bytes are any.
  [[nodiscard]] Ticket read(int extent, std::span<std::byte> to);
  /// In place.
  [[nodiscard]] Ticket write(int extent, std::span<const std::byte> from);
  /// The other generation, which commit() makes current and discard() forgets; both after wait().
  [[nodiscard]] Ticket write_next(int extent, std::span<const std::byte> from);
  void commit(int extent);
  void discard(int extent);
  /// Rethrows the error of the transfer: io, "data lost" with the names of the extents when their
  /// only copy is on a path that failed or fails its checksum. Once per ticket.
  void wait(Ticket ticket);
  bool done(Ticket ticket) const;

  /// Once per training step: every 50 of them, or of commits where it is never called, the shares
  /// of the paths follow their observed rates.
  void note_step();
  /// Since the store was made.
  PathCounters counters(int path) const;
  /// Of the bytes that extents reserve, what lies on this path.
  double share(int path) const;
  std::string_view engine() const;
  void set_pace(int path, double read, double write);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace strata::offload
