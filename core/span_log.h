#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "core/runtime.h"

namespace strata {

/// A stretch of work on one lane. Names are literals: a span owns nothing.
struct Span {
  enum class Kind : std::uint8_t {
    instruction,  // of the step's program
    op,           // of a block's graph, inside an instruction
  };
  Kind kind = Kind::op;
  std::string_view name = {};       // "backward"; "linear"
  std::string_view direction = {};  // of an op: "forward" or "backward"
  int block = -1, micro_batch = -1;
  Lane lane = Lane::compute;
  std::int64_t begin_ns = 0, end_ns = 0;  // of the steady clock
};

/// Collects spans in memory that was taken beforehand: a step under observation allocates nothing.
/// Thread-safe.
class SpanLog {
 public:
  explicit SpanLog(std::size_t capacity) { spans_.reserve(capacity); }
  /// Beyond the capacity spans are counted, not kept.
  void add(const Span& span);
  void clear();
  /// In order of their ends. Valid until the next add or clear.
  std::span<const Span> spans() const { return spans_; }
  std::int64_t lost() const { return lost_; }

 private:
  std::mutex mutex_;
  std::vector<Span> spans_;
  std::int64_t lost_ = 0;
};

std::int64_t steady_now_ns();

/// Logs the time between construction and destruction; does nothing without a log.
class SpanTimer {
 public:
  SpanTimer(SpanLog* log, const Span& span) : log_(log), span_(span) {
    if (log_ != nullptr) {
      span_.begin_ns = steady_now_ns();
    }
  }
  ~SpanTimer() {
    if (log_ != nullptr) {
      span_.end_ns = steady_now_ns();
      log_->add(span_);
    }
  }
  SpanTimer(const SpanTimer&) = delete;
  SpanTimer& operator=(const SpanTimer&) = delete;

 private:
  SpanLog* log_;
  Span span_;
};

}  // namespace strata
