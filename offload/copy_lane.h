#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace strata::offload {

/// A thread that copies memory, one request after the other, beside the thread that computes. It
/// sleeps when it has nothing to do. Two threads may use it: one posts and waits.
class CopyLane {
 public:
  using Ticket = std::int64_t;
  /// `pace`: bytes per second at most; 0: as fast as it goes.
  explicit CopyLane(double pace = 0);
  ~CopyLane();
  CopyLane(const CopyLane&) = delete;
  CopyLane& operator=(const CopyLane&) = delete;

  /// Both stay as they are until the ticket was waited for. Blocks while kMostWaiting copies wait.
  Ticket copy(std::span<std::byte> to, std::span<const std::byte> from);
  void wait(Ticket ticket);
  bool done(Ticket ticket) const;
  double busy_seconds() const;

 private:
  static constexpr std::size_t kMostWaiting = 1024;
  struct Copy {
    std::span<std::byte> to;
    std::span<const std::byte> from;
  };
  void serve(const std::stop_token& stop);
  void carry_out(const Copy& copy);

  const double pace_;
  mutable std::mutex mutex_;
  std::condition_variable_any posted_, completed_;
  std::vector<Copy> ring_;  // by ticket, modulo its size: posting allocates nothing
  Ticket last_posted_ = -1, last_done_ = -1;
  double busy_seconds_ = 0;
  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace strata::offload
