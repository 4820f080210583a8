#include "parallel/shared_boxes.h"

#include <climits>
#include <ctime>
#include <utility>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace strata::parallel {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr int kPausesBetweenLooks = 32;
// A sleeper wakes to look at the alarm, the clock and the processes of its peers.
constexpr long kSleepNs = 20'000'000;
constexpr long kBusySleepNs = 100'000;  // while somebody needs this rank to go on with messages

using Word = std::atomic<std::uint32_t>;
static_assert(Word::is_always_lock_free && Alarm::is_always_lock_free);
static_assert(sizeof(Word) == 4);

// Without FUTEX_PRIVATE_FLAG: the word is shared between processes.
void sleep_while(Word& word, std::uint32_t value, long ns) {
  const timespec limit{0, ns};
  syscall(SYS_futex, &word, FUTEX_WAIT, value, &limit, nullptr, 0);
}
void wake(Word& word) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

std::int64_t SharedBoxes::segment_bytes(std::int64_t capacity_bytes) {
  return kPage + 2 * ((capacity_bytes + kPage - 1) / kPage * kPage);
}

SharedBoxes::SharedBoxes(int rank,
                         std::vector<std::byte*> segments,
                         std::int64_t capacity_bytes,
                         std::int64_t spin_ns,
                         Watch& watch,
                         std::function<bool()> idle)
    : Boxes(rank, static_cast<int>(segments.size()), capacity_bytes),
      segments_(std::move(segments)),
      spin_ns_(spin_ns),
      watch_(watch),
      idle_(std::move(idle)) {
  missing_.reserve(segments_.size());
}

SharedBoxes::Gate& SharedBoxes::gate(int rank) const {
  return *reinterpret_cast<Gate*>(segments_[static_cast<std::size_t>(rank)]);
}

Alarm& SharedBoxes::alarm(const std::vector<std::byte*>& segments) {
  return reinterpret_cast<Gate*>(segments[0])->alarm;
}

std::byte* SharedBoxes::box(int rank, std::uint32_t epoch) const {
  const std::int64_t boxes_bytes = segment_bytes(capacity_bytes()) - kPage;
  return segments_[static_cast<std::size_t>(rank)] + kPage + (epoch % 2) * (boxes_bytes / 2);
}

std::byte* SharedBoxes::for_rank(int other) {
  return box(rank(), epoch_) + personal_offset(rank(), other);
}

const std::byte* SharedBoxes::from_rank(int other) {
  return box(other, epoch_ - 1) + personal_offset(other, rank());
}

bool SharedBoxes::arrived(int rank) const {
  // The counters wrap around; a peer is at most one epoch ahead.
  const std::uint32_t ahead = gate(rank).epoch.load(std::memory_order_acquire) - epoch_;
  return static_cast<std::int32_t>(ahead) >= 0;
}

void SharedBoxes::meet(const char* operation, const Traffic&) {
  ++epoch_;
  Gate& mine = gate(rank());
  mine.epoch.store(epoch_);  // before the look at the sleepers, who first say so and then look
  if (mine.sleepers.load() != 0) {
    wake(mine.epoch);
  }
  for (int step = 1; step < size(); ++step) {
    const int peer = (rank() + step) % size();
    if (!arrived(peer)) {
      wait_for(operation, peer);
    }
  }
}

void SharedBoxes::wait_for(const char* operation, int peer) {
  const Watch::Clock::time_point since = Watch::Clock::now();
  do {
    for (int i = 0; i < kPausesBetweenLooks; ++i) {
      if (arrived(peer)) {
        return;
      }
      pause();
    }
  } while (Watch::Clock::now() - since < std::chrono::nanoseconds(spin_ns_));
  Gate& theirs = gate(peer);
  while (!arrived(peer)) {
    const long rest = idle_() ? kBusySleepNs : kSleepNs;
    theirs.sleepers.fetch_add(1);
    const std::uint32_t seen = theirs.epoch.load();
    if (static_cast<std::int32_t>(seen - epoch_) < 0) {
      sleep_while(theirs.epoch, seen, rest);
    }
    theirs.sleepers.fetch_sub(1);
    missing_.clear();
    for (int r = 0; r < size(); ++r) {
      if (r != rank() && !arrived(r)) {
        missing_.push_back(r);
      }
    }
    if (!missing_.empty()) {
      watch_.check(operation, since, missing_);
    }
  }
}

}  // namespace strata::parallel
