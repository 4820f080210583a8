#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/errors.h"
#include "core/io/file.h"
#include "core/io/transfers.h"

namespace strata::io {
namespace {

constexpr std::uint64_t kWakeId = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kCancelId = kWakeId - 1;
constexpr std::size_t kMaxBuffer = std::size_t{1} << 30;  // the kernel registers no larger one
// Beside the operations: the poll for wake(), cancellations.
constexpr unsigned kSpareEntries = 2;
// One sleep waits for no more answers than these, of at most three quarters of what is under way,
// so that the device does not run dry, and no longer than this for more than one.
constexpr std::size_t kMaxAnswers = 32;
constexpr std::chrono::milliseconds kMaxBatchTime{10};

__kernel_timespec timespec_of(Clock::duration duration) {
  const auto ns = std::max<std::int64_t>(
      0, std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
  return {ns / 1'000'000'000, ns % 1'000'000'000};
}

/// A place, not a handle: the ring counts what is in flight and drains before it goes.
class UringQueue final : public Queue {
 public:
  explicit UringQueue(const QueueConfig& config)
      : transfers_(config),
        depth_(static_cast<std::size_t>(config.depth)),
        batched_(config.batched),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) {
      throw io_error("io_uring", "creation of an eventfd", errno);
    }
    const unsigned entries = static_cast<unsigned>(config.depth) + kSpareEntries;
    const int status = ::io_uring_queue_init(entries, &ring_, 0);
    if (status < 0) {
      throw Error(
          Errc::config,
          fmt::format("io: the kernel refuses an io_uring of depth {}: {}; set the engine to "
                      "threads or lower the depth",
                      config.depth,
                      std::strerror(-status)));
    }
    register_buffers(config.buffers);
    if (!config.files.empty() &&
        ::io_uring_register_files(
            &ring_, config.files.data(), static_cast<unsigned>(config.files.size())) == 0) {
      files_ = config.files;  // refused: plain descriptors do the same
    }
  }
  ~UringQueue() override {
    try {
      while (!transfers_.all_done()) {
        progress(Clock::time_point::max(), 1);
      }
    } catch (...) {
      // Only a broken ring comes here; closing it is all that is left.
    }
    ::io_uring_queue_exit(&ring_);
  }
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  Ticket submit(Request request) override {
    const Ticket ticket = transfers_.add(std::move(request));
    if (!batched_) {
      reap();
      start();
      hand_over();
    }
    return ticket;
  }
  void wait(Ticket ticket) override {
    while (!transfers_.done(ticket)) {
      progress(Clock::time_point::max(), 1);
    }
    transfers_.collect(ticket);
  }
  void wait_all() override {
    while (!transfers_.all_done()) {
      progress(Clock::time_point::max(), 1);
    }
    transfers_.collect_all();
  }
  std::optional<Outcome> next_finished(Clock::time_point until, std::int64_t answers) override {
    while (true) {
      if (transfers_.finished() == 0) {
        reap();
      }
      if (std::optional<Outcome> outcome = transfers_.collect_next()) {
        return outcome;
      }
      if (woken_) {
        woken_ = false;
        return std::nullopt;
      }
      if (Clock::now() >= until) {
        start();
        hand_over();
        return std::nullopt;
      }
      watch_wake();
      progress(until, static_cast<std::size_t>(std::max<std::int64_t>(1, answers)));
    }
  }
  void wake() override {
    const std::uint64_t one = 1;
    // Only a full counter fails, and then it is awake.
    [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);
  }
  QueueCounts counts() const override {
    QueueCounts counts = transfers_.counts();
    counts.kernel_entries = entries_;
    return counts;
  }
  std::string_view engine() const override { return "io_uring"; }
  std::string_view buffers_refused() const override { return buffers_refused_; }

 private:
  void register_buffers(const std::vector<std::span<std::byte>>& buffers) {
    std::vector<iovec> pieces;
    for (std::span<std::byte> rest : buffers) {
      while (!rest.empty()) {
        const std::span<std::byte> piece = rest.first(std::min(rest.size(), kMaxBuffer));
        pieces.push_back({piece.data(), piece.size()});
        rest = rest.subspan(piece.size());
      }
    }
    if (pieces.empty()) {
      return;
    }
    const int status =
        ::io_uring_register_buffers(&ring_, pieces.data(), static_cast<unsigned>(pieces.size()));
    if (status < 0) {
      buffers_refused_ = std::strerror(-status);
    } else {
      buffers_ = std::move(pieces);
    }
  }
  /// The registered buffer that holds all of these bytes, or -1.
  int buffer_of(std::span<std::byte> bytes) const {
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      const auto* begin = static_cast<const std::byte*>(buffers_[i].iov_base);
      if (bytes.data() >= begin && bytes.data() + bytes.size() <= begin + buffers_[i].iov_len) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
  /// Prepares as many operations as there are free slots.
  void start() {
    while (transfers_.flying() < depth_) {
      const std::optional<Operation> operation = transfers_.next(Clock::now());
      if (!operation) {
        break;
      }
      prepare(*operation);
    }
  }
  io_uring_sqe* free_entry() {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    while (entry == nullptr) {  // cancellations took the spare ones
      hand_over();
      entry = ::io_uring_get_sqe(&ring_);
    }
    return entry;
  }
  void prepare(const Operation& operation) {
    io_uring_sqe* entry = free_entry();
    const auto size = static_cast<unsigned>(operation.bytes.size());
    const auto offset = static_cast<std::uint64_t>(operation.offset);
    std::byte* data = operation.bytes.data();
    const int buffer = buffer_of(operation.bytes);
    const auto file = std::find(files_.begin(), files_.end(), operation.fd);
    const bool fixed = file != files_.end();
    const int fd = fixed ? static_cast<int>(file - files_.begin()) : operation.fd;
    if (operation.direction == Direction::read) {
      buffer < 0 ? ::io_uring_prep_read(entry, fd, data, size, offset)
                 : ::io_uring_prep_read_fixed(entry, fd, data, size, offset, buffer);
    } else {
      buffer < 0 ? ::io_uring_prep_write(entry, fd, data, size, offset)
                 : ::io_uring_prep_write_fixed(entry, fd, data, size, offset, buffer);
    }
    ::io_uring_sqe_set_flags(entry, fixed ? IOSQE_FIXED_FILE : 0u);
    ::io_uring_sqe_set_data64(entry, operation.id);
  }
  void watch_wake() {
    if (!watching_) {
      io_uring_sqe* entry = free_entry();
      ::io_uring_prep_poll_add(entry, wake_.get(), POLLIN);
      ::io_uring_sqe_set_data64(entry, kWakeId);
      watching_ = true;
    }
  }
  void hand_over() {
    while (::io_uring_sq_ready(&ring_) > 0) {
      ++entries_;
      check(::io_uring_submit(&ring_));
    }
  }
  /// Completes what the kernel has finished, without blocking.
  void reap() {
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
      const std::uint64_t id = ::io_uring_cqe_get_data64(entry);
      const std::int64_t result = entry->res;
      ::io_uring_cqe_seen(&ring_, entry);
      if (id == kWakeId) {
        std::uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);
        watching_ = false;
        woken_ = true;
      } else if (id != kCancelId) {
        transfers_.complete(id, result, Clock::now());
      }
    }
  }
  /// Starts what can start and sleeps until `answers` have come, something is due, or `until`.
  void progress(Clock::time_point until, std::size_t answers) {
    const std::size_t finished = transfers_.finished();
    start();
    if (transfers_.finished() != finished) {
      return;  // the rest of a failed request was not started
    }
    const Clock::time_point due = std::min(until, transfers_.due());
    answers = std::min({answers, kMaxAnswers, transfers_.flying() * 3 / 4});
    if (answers > 1) {
      sleep(static_cast<unsigned>(answers), std::min(due, Clock::now() + kMaxBatchTime));
    }
    if (::io_uring_cq_ready(&ring_) == 0) {
      sleep(1, due);
    }
    reap();
    for (const std::uint64_t id : transfers_.give_up(Clock::now())) {
      io_uring_sqe* entry = free_entry();
      ::io_uring_prep_cancel64(entry, id, 0);
      ::io_uring_sqe_set_data64(entry, kCancelId);
    }
  }
  void sleep(unsigned answers, Clock::time_point until) {
    io_uring_cqe* entry = nullptr;
    ++entries_;
    if (until == Clock::time_point::max()) {
      check(::io_uring_submit_and_wait(&ring_, answers));
    } else {
      __kernel_timespec time = timespec_of(until - Clock::now());
      check(::io_uring_submit_and_wait_timeout(&ring_, &entry, answers, &time, nullptr));
    }
  }
  static void check(int status) {
    if (status < 0 && status != -EINTR && status != -EAGAIN && status != -EBUSY &&
        status != -ETIME) {
      throw io_error("io_uring", "submission", -status);
    }
  }

  io_uring ring_{};
  Transfers transfers_;
  std::size_t depth_;
  std::int64_t entries_ = 0;
  bool batched_;
  Fd wake_;
  bool watching_ = false, woken_ = false;
  std::vector<iovec> buffers_;
  std::vector<int> files_;
  std::string buffers_refused_;
};

bool probe() {
  io_uring ring{};
  if (::io_uring_queue_init(2, &ring, 0) < 0) {
    return false;
  }
  io_uring_probe* operations = ::io_uring_get_probe_ring(&ring);
  const bool able = operations != nullptr &&
                    ::io_uring_opcode_supported(operations, IORING_OP_READ) != 0 &&
                    ::io_uring_opcode_supported(operations, IORING_OP_WRITE) != 0;
  if (operations != nullptr) {
    ::io_uring_free_probe(operations);
  }
  ::io_uring_queue_exit(&ring);
  return able;
}

}  // namespace

bool uring_available() {
  static const bool available = probe();
  return available;
}

std::unique_ptr<Queue> make_uring_queue(QueueConfig config) {
  return std::make_unique<UringQueue>(config);
}

}  // namespace strata::io
