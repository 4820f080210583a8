#include "offload/nvme_pace.h"

#include <algorithm>

namespace strata::offload {
Pace::Clock::duration Pace::time_of(std::int64_t bytes) const {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(static_cast<double>(bytes) / rate_));
}

Pace::Clock::time_point Pace::when(std::int64_t bytes, Clock::time_point now) {
  if (rate_ <= 0) {
    return now;
  }
  if (arbiter_ != nullptr) {
    if (!reserved_) {
      reserved_ = arbiter_->reserve(direction_, time_of(bytes));
    }
    return *reserved_;
  }
  if (!waiting_) {
    earned_ = std::max(earned_, now);
    waiting_ = true;
  }
  return earned_ + time_of(bytes);
}

void Pace::take(std::int64_t bytes) {
  reserved_.reset();
  if (rate_ > 0) {
    earned_ += time_of(bytes);
  }
}

}  // namespace strata::offload
