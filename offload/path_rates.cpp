// How fast a directory's file system reads and writes, alone and together.
#include <algorithm>
#include <chrono>
#include <deque>
#include <ranges>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/queue.h"
#include "core/memory.h"
#include "offload/planner.h"
#include "offload/profile.h"

namespace strata::offload {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kBlocks[] = {256 << 10, 1 << 20, 4 << 20};
constexpr int kDepths[] = {4, 16, 64};
constexpr std::int64_t kMostInFlight = 64 << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A file that is gone when it is done with, however that comes.
class TrialFile {
 public:
  TrialFile(const std::filesystem::path& directory, std::int64_t size_bytes)
      : path_(directory / fmt::format(".strata-rates-{}", ::getpid())) {
    if (const std::int64_t free = io::free_bytes(directory); free < size_bytes) {
      throw Error(Errc::io,
                  fmt::format("bench hardware: {} has {} free and needs {}; name another directory",
                              directory.string(),
                              bytes_text(free),
                              bytes_text(size_bytes)));
    }
    fd_ = io::open_file(path_, io::Open::create_new, io::Caching::direct);
  }
  ~TrialFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TrialFile(const TrialFile&) = delete;
  TrialFile& operator=(const TrialFile&) = delete;

  int fd() const { return fd_.get(); }
  bool direct() const { return (::fcntl(fd_.get(), F_GETFL) & O_DIRECT) != 0; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  io::Fd fd_;
};

enum class Traffic : std::uint8_t { read, write, mixed };

class PathTrialRun {
 public:
  PathTrialRun(const TrialFile& file, std::int64_t file_bytes, std::span<std::byte> memory)
      : file_(file), file_bytes_(file_bytes), memory_(memory) {}

  /// Bytes per second with so many blocks in flight, for at least `seconds` or the file once.
  double rate(Traffic traffic, std::int64_t block, int depth, double seconds, bool whole_file) {
    const std::unique_ptr<io::Queue> queue = io::make_queue({.depth = depth, .block_bytes = block});
    engine_ = queue->engine();
    std::deque<io::Ticket> flying;
    std::int64_t bytes = 0;
    const auto start = Clock::now();
    const auto take = [&] {
      queue->wait(flying.front());
      flying.pop_front();
      bytes += block;
    };
    const std::int64_t blocks = file_bytes_ / block;
    const auto slots = static_cast<std::int64_t>(memory_.size()) / block;
    for (std::int64_t k = 0; whole_file ? k < blocks : seconds_since(start) < seconds; ++k) {
      if (static_cast<int>(flying.size()) == depth) {
        take();
      }
      flying.push_back(queue->submit(request(traffic, k, block, blocks, slots)));
    }
    while (!flying.empty()) {
      take();
    }
    return static_cast<double>(bytes) / seconds_since(start);
  }
  std::string_view engine() const { return engine_; }

 private:
  /// Mixed traffic reads the first half of the file and writes the second.
  io::Request request(Traffic traffic,
                      std::int64_t k,
                      std::int64_t block,
                      std::int64_t blocks,
                      std::int64_t slots) const {
    const bool mixed = traffic == Traffic::mixed;
    const bool writes = traffic == Traffic::write || (mixed && k % 2 == 1);
    const std::int64_t half = blocks / 2;
    const std::int64_t at = mixed ? (writes ? half : 0) + k / 2 % half : k % blocks;
    return {.direction = writes ? io::Direction::write : io::Direction::read,
            .fd = file_.fd(),
            .offset = at * block,
            .bytes = memory_.subspan(static_cast<std::size_t>(k % slots * block),
                                     static_cast<std::size_t>(block)),
            .path = file_.path().string()};
  }

  const TrialFile& file_;
  std::int64_t file_bytes_;
  std::span<std::byte> memory_;
  std::string engine_;
};

}  // namespace

PathRates measure_path(const std::filesystem::path& directory, const PathTrial& trial) {
  const TrialFile file(directory, trial.file_bytes);
  // Every request in flight has bytes of its own.
  const std::int64_t memory_bytes = 4 * kMostInFlight;
  const Arena arena(Tier{TierKind::host, 0}, memory_bytes, memory_bytes);
  const std::span<std::byte> memory = arena.range(0, memory_bytes);
  for (std::size_t i = 0; i < memory.size(); i += 8) {  // no file system makes less of it
    const std::uint64_t mixed = (i + 1) * 0x9E3779B97F4A7C15ull;
    std::copy_n(reinterpret_cast<const std::byte*>(&mixed),
                8,
                memory.begin() + static_cast<std::ptrdiff_t>(i));
  }
  PathTrialRun run(file, trial.file_bytes, memory);
  run.rate(Traffic::write, kBlocks[1], kDepths[1], 0, true);  // blocks that exist from here on
  PathRates best;
  for (const std::int64_t block : std::ranges::reverse_view(kBlocks)) {
    for (const int depth : kDepths) {
      if (block * depth > kMostInFlight) {
        continue;
      }
      const double rate = run.rate(Traffic::read, block, depth, trial.seconds, false);
      // What is hardly faster is not worth more in flight, nor more calls of the kernel: those take
      // time from what computes.
      if (rate > 1.03 * best.read) {
        best.read = rate;
        best.block_bytes = block;
        best.depth = depth;
      }
    }
  }
  best.directory = directory.string();
  best.write = run.rate(Traffic::write, best.block_bytes, best.depth, trial.seconds, false);
  best.mixed = run.rate(Traffic::mixed, best.block_bytes, best.depth, trial.seconds, false);
  best.direct = file.direct();
  best.engine = run.engine();
  return best;
}

}  // namespace strata::offload
