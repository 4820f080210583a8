#include "offload/copy_lane.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/error.h"

namespace strata::offload {
namespace {

using Clock = std::chrono::steady_clock;

/// Between them a paced lane looks at the clock.
constexpr std::size_t kPacedBytes = std::size_t{1} << 20;

}  // namespace

CopyLane::CopyLane(double pace)
    : pace_(pace),
      ring_(kMostWaiting),
      thread_([this](const std::stop_token& stop) { serve(stop); }) {}

CopyLane::~CopyLane() {
  thread_.request_stop();
}

CopyLane::Ticket CopyLane::copy(std::span<std::byte> to, std::span<const std::byte> from) {
  STRATA_ASSERT(to.size() == from.size());
  std::unique_lock lock(mutex_);
  const auto most = static_cast<Ticket>(ring_.size());
  completed_.wait(lock, [&] { return last_posted_ - last_done_ < most; });
  const Ticket ticket = ++last_posted_;
  ring_[static_cast<std::size_t>(ticket % most)] = {to, from};
  posted_.notify_one();
  return ticket;
}

void CopyLane::wait(Ticket ticket) {
  std::unique_lock lock(mutex_);
  completed_.wait(lock, [&] { return last_done_ >= ticket; });
}

bool CopyLane::done(Ticket ticket) const {
  const std::scoped_lock lock(mutex_);
  return last_done_ >= ticket;
}

double CopyLane::busy_seconds() const {
  const std::scoped_lock lock(mutex_);
  return busy_seconds_;
}

void CopyLane::serve(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    posted_.wait(lock, stop, [&] { return last_posted_ > last_done_; });
    if (last_posted_ == last_done_) {
      return;  // asked to stop, and nothing is left
    }
    const Copy next =
        ring_[static_cast<std::size_t>((last_done_ + 1) % static_cast<Ticket>(ring_.size()))];
    lock.unlock();
    const auto start = Clock::now();
    carry_out(next);
    lock.lock();
    busy_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    ++last_done_;
    completed_.notify_all();
  }
}

void CopyLane::carry_out(const Copy& copy) {
  const std::size_t piece = pace_ > 0 ? kPacedBytes : copy.from.size();
  const auto start = Clock::now();
  for (std::size_t at = 0; at < copy.from.size(); at += piece) {
    const std::size_t bytes = std::min(piece, copy.from.size() - at);
    std::memcpy(copy.to.data() + at, copy.from.data() + at, bytes);
    if (pace_ > 0) {
      std::this_thread::sleep_until(
          start + std::chrono::duration_cast<Clock::duration>(
                      std::chrono::duration<double>(static_cast<double>(at + bytes) / pace_)));
    }
  }
}

}  // namespace strata::offload
