#include <cerrno>
#include <cstring>
#include <vector>

#include <fmt/format.h>
#include <liburing.h>

#include "core/error.h"
#include "core/io/errors.h"
#include "core/io/transfers.h"

namespace strata::io {
namespace {

/// A place, not a handle: the ring counts what is in flight and drains before it goes.
class UringQueue final : public Queue {
 public:
  explicit UringQueue(QueueConfig config)
      : transfers_(config.block_bytes, std::move(config.fault)),
        slots_(static_cast<std::size_t>(config.depth)) {
    const int status = ::io_uring_queue_init(static_cast<unsigned>(config.depth), &ring_, 0);
    if (status < 0) {
      throw Error(
          Errc::config,
          fmt::format("io: the kernel refuses an io_uring of depth {}: {}; set the engine to "
                      "threads or lower the depth",
                      config.depth,
                      std::strerror(-status)));
    }
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      free_.push_back(i);
    }
  }
  ~UringQueue() override {
    try {
      while (!transfers_.all_done()) {
        progress();
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
    reap();
    start();
    return ticket;
  }
  void wait(Ticket ticket) override {
    while (!transfers_.done(ticket)) {
      progress();
    }
    transfers_.collect(ticket);
  }
  void wait_all() override {
    while (!transfers_.all_done()) {
      progress();
    }
    transfers_.collect_all();
  }
  std::string_view engine() const override { return "io_uring"; }

 private:
  /// Hands as many operations to the kernel as there are free slots.
  void start() {
    while (!free_.empty()) {
      const std::optional<Operation> operation = transfers_.next();
      if (!operation) {
        break;
      }
      const std::size_t slot = free_.back();
      free_.pop_back();
      slots_[slot] = *operation;
      prepare(slot);
    }
    while (::io_uring_sq_ready(&ring_) > 0) {
      check(::io_uring_submit(&ring_));
    }
  }
  void prepare(std::size_t slot) {
    // The ring has at least as many entries as there are slots, so one is always free.
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    STRATA_ASSERT(entry != nullptr);
    const Operation& operation = slots_[slot];
    const int fd = operation.owner->fd;
    const auto size = static_cast<unsigned>(operation.bytes.size());
    const auto offset = static_cast<std::uint64_t>(operation.offset);
    if (operation.owner->direction == Direction::read) {
      ::io_uring_prep_read(entry, fd, operation.bytes.data(), size, offset);
    } else {
      ::io_uring_prep_write(entry, fd, operation.bytes.data(), size, offset);
    }
    ::io_uring_sqe_set_data64(entry, slot);
  }
  /// Completes what the kernel has finished, without blocking.
  void reap() {
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
      const auto slot = static_cast<std::size_t>(::io_uring_cqe_get_data64(entry));
      const std::int64_t result = entry->res;
      ::io_uring_cqe_seen(&ring_, entry);
      free_.push_back(slot);
      transfers_.complete(slots_[slot], result);
    }
  }
  void progress() {
    start();
    if (free_.size() < slots_.size()) {
      io_uring_cqe* entry = nullptr;
      check(::io_uring_wait_cqe(&ring_, &entry));
      reap();
    }
  }
  static void check(int status) {
    if (status < 0 && status != -EINTR && status != -EAGAIN && status != -EBUSY) {
      throw io_error("io_uring", "submission", -status);
    }
  }

  io_uring ring_{};
  Transfers transfers_;
  std::vector<Operation> slots_;
  std::vector<std::size_t> free_;
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
  return std::make_unique<UringQueue>(std::move(config));
}

}  // namespace strata::io
