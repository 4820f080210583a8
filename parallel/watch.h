#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace strata::parallel {

/// A rank as its peers know it. Plain bytes, so that it can be sent.
struct Peer {
  std::array<char, 64> host{};
  std::array<char, 40> boot{};      // which run of which machine: host names may repeat
  std::uint64_t pid_namespace = 0;  // where `pid` means something
  std::int64_t pid = 0;
};
Peer this_process();

/// The first misfortune of a run, where all ranks of a machine see it; 0: none yet.
using Alarm = std::atomic<std::uint64_t>;

/// Looks after waits: who is missing, for how long, and whether it can still come.
class Watch {
 public:
  using Clock = std::chrono::steady_clock;
  Watch(int rank, std::vector<Peer> peers, double timeout_seconds);
  /// `alarm` outlives this watch.
  void use_alarm(Alarm* alarm) { alarm_ = alarm; }
  /// "rank 1 (host node7, pid 4711)".
  std::string name(int rank) const;
  /// To be called every few milliseconds of a wait for `missing`. Throws when another rank has
  /// raised the alarm (with that rank's exit code), when the process of a missing one has ended or
  /// when the wait has lasted too long (comm), and raises the alarm for the last two.
  void check(const char* operation, Clock::time_point since, std::span<const int> missing);
  /// Tells the ranks that share the alarm to end with this code; `missing`: because that rank did
  /// not come, -1: for a reason of this rank's own.
  void raise(int exit_code, int missing) noexcept;
  /// Whether this rank has raised the alarm or stopped for it: it can meet nobody any more.
  bool is_lost() const { return lost_; }

 private:
  bool has_ended(int rank) const;
  [[noreturn]] void stop(const char* operation, std::uint64_t alarm);
  const int rank_;
  const std::vector<Peer> peers_;
  const double timeout_seconds_;
  Alarm* alarm_ = nullptr;
  bool lost_ = false;
  Clock::time_point processes_seen_{};
};

}  // namespace strata::parallel
