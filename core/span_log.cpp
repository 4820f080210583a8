#include "core/span_log.h"

#include <chrono>

namespace strata {

void SpanLog::add(const Span& span) {
  const std::lock_guard lock(mutex_);
  if (spans_.size() == spans_.capacity()) {
    ++lost_;
    return;
  }
  spans_.push_back(span);
}

void SpanLog::clear() {
  const std::lock_guard lock(mutex_);
  spans_.clear();
  lost_ = 0;
}

std::int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace strata
