#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "offload/nvme_arbiter.h"

namespace strata::offload {

/// Slows one direction of a path down to a rate, as a device of that rate would: bytes start when
/// the time they take has passed; nothing is earned while nothing waits, and a thread that comes
/// late makes up for it. Not thread-safe.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Pace(double bytes_per_second = 0) : rate_(bytes_per_second) {}
  /// From now on the rate is that of all processes together that have this path.
  void share(NvmeArbiter& arbiter, std::size_t direction) {
    arbiter_ = &arbiter;
    direction_ = direction;
  }
  void set(double bytes_per_second) { rate_ = bytes_per_second; }
  /// When so many bytes, which wait now, may start.
  Clock::time_point when(std::int64_t bytes, Clock::time_point now);
  /// They have started.
  void take(std::int64_t bytes);
  /// Nothing waits.
  void rest() { waiting_ = false; }

 private:
  Clock::duration time_of(std::int64_t bytes) const;
  double rate_;
  Clock::time_point earned_{};  // up to here all time is spent
  bool waiting_ = false;
  NvmeArbiter* arbiter_ = nullptr;
  std::size_t direction_ = 0;
  std::optional<Clock::time_point> reserved_;
};

}  // namespace strata::offload
