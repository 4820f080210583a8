#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include <unistd.h>

#include "core/io/transfers.h"

namespace strata::io {
namespace {

// More threads than this gain nothing on one file system and cost the trainer cores.
constexpr int kMaxThreads = 4;

std::int64_t perform(const Operation& operation) {
  const Request& request = *operation.owner;
  const ssize_t moved =
      request.direction == Direction::read
          ? ::pread(request.fd, operation.bytes.data(), operation.bytes.size(), operation.offset)
          : ::pwrite(request.fd, operation.bytes.data(), operation.bytes.size(), operation.offset);
  return moved < 0 ? -errno : moved;
}

class ThreadQueue final : public Queue {
 public:
  explicit ThreadQueue(QueueConfig config)
      : transfers_(config.block_bytes, std::move(config.fault)) {
    for (int i = 0; i < std::min(config.depth, kMaxThreads); ++i) {
      threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
    }
  }
  ~ThreadQueue() override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return transfers_.all_done(); });
  }
  ThreadQueue(const ThreadQueue&) = delete;
  ThreadQueue& operator=(const ThreadQueue&) = delete;

  Ticket submit(Request request) override {
    const std::lock_guard lock(mutex_);
    const Ticket ticket = transfers_.add(std::move(request));
    started_.notify_all();
    return ticket;
  }
  void wait(Ticket ticket) override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return transfers_.done(ticket); });
    transfers_.collect(ticket);
  }
  void wait_all() override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return transfers_.all_done(); });
    transfers_.collect_all();
  }
  std::string_view engine() const override { return "threads"; }

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (started_.wait(lock, stop, [&] { return transfers_.waiting(); })) {
      const std::optional<Operation> operation = transfers_.next();
      if (operation) {
        lock.unlock();
        const std::int64_t result = perform(*operation);
        lock.lock();
        transfers_.complete(*operation, result);
        if (transfers_.waiting()) {
          started_.notify_one();
        }
      }
      finished_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any started_, finished_;
  Transfers transfers_;
  std::vector<std::jthread> threads_;  // last: they stop before what they use is gone
};

}  // namespace

std::unique_ptr<Queue> make_thread_queue(QueueConfig config) {
  return std::make_unique<ThreadQueue>(std::move(config));
}

}  // namespace strata::io
