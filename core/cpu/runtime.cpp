#include "core/cpu/runtime.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include "core/cpu/memory_info.h"
#include "core/error.h"

namespace strata::cpu {

namespace {

/// The first error of a stream that no waiter has seen yet.
class Failure {
 public:
  void keep(std::exception_ptr error) {
    const std::scoped_lock lock(mutex_);
    if (!error_) {
      error_ = std::move(error);
    }
  }
  std::exception_ptr get() const {
    const std::scoped_lock lock(mutex_);
    return error_;
  }
  /// Somebody rethrew it: the stream may work again.
  void clear(const std::exception_ptr& seen) {
    const std::scoped_lock lock(mutex_);
    if (error_ == seen) {
      error_ = nullptr;
    }
  }

 private:
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

class CpuEvent final : public Event {
 public:
  /// `failure`: of the stream it was recorded on; absent on the compute lane, whose errors leave
  /// enqueue itself.
  explicit CpuEvent(std::shared_ptr<Failure> failure) : failure_(std::move(failure)) {}
  void complete(std::exception_ptr error) {
    const std::scoped_lock lock(mutex_);
    done_ = true;
    error_ = std::move(error);
    changed_.notify_all();
  }
  bool done() const {
    const std::scoped_lock lock(mutex_);
    return done_;
  }
  std::exception_ptr wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return error_;
  }
  void wait_and_rethrow() {
    if (const std::exception_ptr error = wait(); error) {
      failure_->clear(error);
      std::rethrow_exception(error);
    }
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::exception_ptr error_;
  std::shared_ptr<Failure> failure_;
};

CpuEvent& as_cpu(const std::shared_ptr<Event>& event) {
  auto* cpu_event = dynamic_cast<CpuEvent*>(event.get());
  STRATA_ASSERT(cpu_event != nullptr);
  return *cpu_event;
}

class InlineStream final : public Stream {
 public:
  Device device() const override { return {}; }
  Lane lane() const override { return Lane::compute; }
  void enqueue(std::function<void()> work) override { work(); }
};

class QueueStream final : public Stream {
 public:
  explicit QueueStream(Lane lane) : lane_(lane) {}
  Device device() const override { return {}; }
  Lane lane() const override { return lane_; }

  void enqueue(std::function<void()> work) override {
    push([this, work = std::move(work)] {
      if (failure_->get()) {
        return;
      }
      try {
        work();
      } catch (...) {
        failure_->keep(std::current_exception());
      }
    });
  }

  std::shared_ptr<Event> record() {
    auto event = std::make_shared<CpuEvent>(failure_);
    push([this, event] { event->complete(failure_->get()); });
    return event;
  }

 private:
  void push(std::function<void()> job) {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back(std::move(job));
    if (!thread_.joinable()) {
      thread_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
    }
    arrived_.notify_one();
  }

  void serve(const std::stop_token& stop) {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        if (!arrived_.wait(lock, stop, [this] { return !jobs_.empty(); })) {
          return;
        }
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      if (stop.stop_requested()) {
        // What queued work points to may be gone. It is skipped, but its events complete, since
        // another lane may be waiting for one.
        failure_->keep(std::make_exception_ptr(
            Error(Errc::internal, "runtime: the stream ended before its work was done")));
      }
      job();
    }
  }

  const Lane lane_;
  const std::shared_ptr<Failure> failure_ = std::make_shared<Failure>();
  std::mutex mutex_;
  std::condition_variable_any arrived_;
  std::deque<std::function<void()>> jobs_;
  std::jthread thread_;  // last: joined before the queue it reads is gone
};

}  // namespace

CpuRuntime::CpuRuntime() {
  streams_[0] = std::make_unique<InlineStream>();
  for (std::size_t i = 1; i < kLanes; ++i) {
    streams_[i] = std::make_unique<QueueStream>(static_cast<Lane>(i));
  }
}

CpuRuntime::~CpuRuntime() = default;

Stream& CpuRuntime::stream(Lane lane) {
  return *streams_[static_cast<std::size_t>(lane)];
}

std::shared_ptr<Event> CpuRuntime::record(Stream& stream) {
  if (auto* queue = dynamic_cast<QueueStream*>(&stream); queue != nullptr) {
    return queue->record();
  }
  auto event = std::make_shared<CpuEvent>(nullptr);
  event->complete(nullptr);  // inline work is done by now
  return event;
}

void CpuRuntime::wait(Stream& waiter, const std::shared_ptr<Event>& event) {
  waiter.enqueue([event] { as_cpu(event).wait_and_rethrow(); });
}

void CpuRuntime::wait_host(const std::shared_ptr<Event>& event) {
  as_cpu(event).wait_and_rethrow();
}

bool CpuRuntime::done(const std::shared_ptr<Event>& event) const {
  return as_cpu(event).done();
}

void CpuRuntime::copy_async(std::byte* to,
                            const std::byte* from,
                            std::int64_t size_bytes,
                            Stream& stream) {
  stream.enqueue([=] { std::memcpy(to, from, static_cast<std::size_t>(size_bytes)); });
}

void CpuRuntime::fill_async(std::byte* to,
                            std::byte value,
                            std::int64_t size_bytes,
                            Stream& stream) {
  stream.enqueue(
      [=] { std::memset(to, std::to_integer<int>(value), static_cast<std::size_t>(size_bytes)); });
}

MemoryInfo CpuRuntime::memory_info() const {
  return host_memory_info();
}

}  // namespace strata::cpu
