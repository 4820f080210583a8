#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <memory>
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
  const ssize_t moved =
      operation.direction == Direction::read
          ? ::pread(operation.fd, operation.bytes.data(), operation.bytes.size(), operation.offset)
          : ::pwrite(
                operation.fd, operation.bytes.data(), operation.bytes.size(), operation.offset);
  return moved < 0 ? -errno : moved;
}

/// Outlives the queue when a thread hangs in an operation that was given up.
struct Work {
  explicit Work(const QueueConfig& config) : transfers(config) {}
  std::mutex mutex;
  std::condition_variable_any started, finished;
  Transfers transfers;
  bool woken = false;
};

void work(const std::stop_token& stop, const std::shared_ptr<Work>& shared) {
  Work& w = *shared;
  std::unique_lock lock(w.mutex);
  const auto ready = [&] { return w.transfers.waiting(Clock::now()); };
  while (!stop.stop_requested()) {
    const std::optional<Operation> operation = w.transfers.next(Clock::now());
    if (operation) {
      lock.unlock();
      const std::int64_t result = perform(*operation);
      lock.lock();
      w.transfers.complete(operation->id, result, Clock::now());
      w.finished.notify_all();
      continue;
    }
    w.transfers.give_up(Clock::now());
    w.finished.notify_all();  // next() may have ended the rest of a failed request
    const Clock::time_point due = w.transfers.due();
    if (due == Clock::time_point::max()) {
      w.started.wait(lock, stop, ready);
    } else {
      w.started.wait_until(lock, stop, due, ready);
    }
  }
}

class ThreadQueue final : public Queue {
 public:
  explicit ThreadQueue(const QueueConfig& config) : work_(std::make_shared<Work>(config)) {
    for (int i = 0; i < std::min(config.depth, kMaxThreads); ++i) {
      threads_.emplace_back([shared = work_](const std::stop_token& stop) { work(stop, shared); });
    }
  }
  ~ThreadQueue() override {
    std::unique_lock lock(work_->mutex);
    wait_until(lock, [&] { return work_->transfers.all_done(); });
    const bool hangs = work_->transfers.lost() > 0;
    lock.unlock();
    for (std::jthread& thread : threads_) {
      thread.request_stop();
      if (hangs) {
        thread.detach();
      }
    }
  }
  ThreadQueue(const ThreadQueue&) = delete;
  ThreadQueue& operator=(const ThreadQueue&) = delete;

  Ticket submit(Request request) override {
    const std::lock_guard lock(work_->mutex);
    const Ticket ticket = work_->transfers.add(std::move(request));
    work_->started.notify_all();
    return ticket;
  }
  void wait(Ticket ticket) override {
    std::unique_lock lock(work_->mutex);
    wait_until(lock, [&] { return work_->transfers.done(ticket); });
    work_->transfers.collect(ticket);
  }
  void wait_all() override {
    std::unique_lock lock(work_->mutex);
    wait_until(lock, [&] { return work_->transfers.all_done(); });
    work_->transfers.collect_all();
  }
  std::optional<Outcome> next_finished(Clock::time_point until, std::int64_t) override {
    std::unique_lock lock(work_->mutex);
    wait_until(
        lock, [&] { return work_->transfers.finished() > 0 || work_->woken; }, until);
    std::optional<Outcome> outcome = work_->transfers.collect_next();
    if (!outcome) {
      work_->woken = false;
    }
    return outcome;
  }
  void wake() override {
    const std::lock_guard lock(work_->mutex);
    work_->woken = true;
    work_->finished.notify_all();
  }
  QueueCounts counts() const override {
    const std::lock_guard lock(work_->mutex);
    return work_->transfers.counts();
  }
  std::string_view engine() const override { return "threads"; }
  std::string_view buffers_refused() const override { return {}; }

 private:
  /// What pauses or hangs has to be looked after by the one who waits.
  template <class Condition>
  void wait_until(std::unique_lock<std::mutex>& lock,
                  const Condition& condition,
                  Clock::time_point until = Clock::time_point::max()) {
    while (!condition() && Clock::now() < until) {
      const Clock::time_point next = std::min(until, work_->transfers.due());
      if (next == Clock::time_point::max()) {
        work_->finished.wait(lock);
      } else {
        work_->finished.wait_until(lock, next);
      }
      work_->transfers.give_up(Clock::now());
      if (work_->transfers.waiting(Clock::now())) {
        work_->started.notify_one();
      }
    }
  }

  std::shared_ptr<Work> work_;
  std::vector<std::jthread> threads_;
};

}  // namespace

std::unique_ptr<Queue> make_thread_queue(QueueConfig config) {
  return std::make_unique<ThreadQueue>(config);
}

}  // namespace strata::io
