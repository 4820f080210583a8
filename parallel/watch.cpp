#include "parallel/watch.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace strata::parallel {
namespace {

constexpr auto kLookAtProcesses = std::chrono::milliseconds(100);
constexpr std::size_t kNamed = 4;  // of those that are missing

// An alarm: 1, exit code, who raised it, who was missing plus one; so it is never 0.
constexpr std::uint64_t pack(int code, int by, int missing) {
  return std::uint64_t{1} << 56 | static_cast<std::uint64_t>(code & 0xff) << 48 |
         static_cast<std::uint64_t>(by) << 24 | static_cast<std::uint64_t>(missing + 1);
}
constexpr int code_of(std::uint64_t alarm) {
  return static_cast<int>(alarm >> 48 & 0xff);
}
constexpr int by_of(std::uint64_t alarm) {
  return static_cast<int>(alarm >> 24 & 0xffffff);
}
constexpr int missing_of(std::uint64_t alarm) {
  return static_cast<int>(alarm & 0xffffff) - 1;
}

/// The state letter in /proc/PID/stat, behind the name in parentheses; 0 when it cannot be read.
char process_state(std::int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const std::size_t end = line.rfind(')');
  return end == std::string::npos || end + 2 >= line.size() ? '\0' : line[end + 2];
}

}  // namespace

Peer this_process() {
  Peer peer;
  gethostname(peer.host.data(), peer.host.size() - 1);
  std::ifstream("/proc/sys/kernel/random/boot_id").read(peer.boot.data(), peer.boot.size() - 1);
  struct stat space {};
  if (stat("/proc/self/ns/pid", &space) == 0) {
    peer.pid_namespace = space.st_ino;
  }
  peer.pid = getpid();
  return peer;
}

Watch::Watch(int rank, std::vector<Peer> peers, double timeout_seconds)
    : rank_(rank), peers_(std::move(peers)), timeout_seconds_(timeout_seconds) {}

std::string Watch::name(int rank) const {
  const Peer& peer = peers_[static_cast<std::size_t>(rank)];
  return fmt::format("rank {} (host {}, pid {})", rank, peer.host.data(), peer.pid);
}

bool Watch::has_ended(int rank) const {
  const Peer& peer = peers_[static_cast<std::size_t>(rank)];
  const Peer& me = peers_[static_cast<std::size_t>(rank_)];
  if (peer.boot != me.boot || me.boot[0] == '\0' || peer.pid_namespace != me.pid_namespace ||
      me.pid_namespace == 0) {
    return false;  // cannot be seen from here
  }
  if (kill(static_cast<pid_t>(peer.pid), 0) != 0 && errno == ESRCH) {
    return true;
  }
  const char state = process_state(peer.pid);
  return state == 'Z' || state == 'X';
}

void Watch::check(const char* operation, Clock::time_point since, std::span<const int> missing) {
  if (const std::uint64_t alarm = alarm_ == nullptr ? 0 : alarm_->load(); alarm != 0) {
    stop(operation, alarm);
  }
  const Clock::time_point now = Clock::now();
  if (now - processes_seen_ > kLookAtProcesses) {
    processes_seen_ = now;
    const auto ended = std::ranges::find_if(missing, [&](int rank) { return has_ended(rank); });
    if (ended != missing.end()) {
      raise(static_cast<int>(Errc::comm), *ended);
      throw Error(Errc::comm,
                  fmt::format("{}: {} needs {}, whose process has ended; see what it said, then "
                              "start all ranks again",
                              operation,
                              name(rank_),
                              name(*ended)));
    }
  }
  if (std::chrono::duration<double>(now - since).count() <= timeout_seconds_ || missing.empty()) {
    return;
  }
  raise(static_cast<int>(Errc::comm), missing.front());
  std::string names;
  for (std::size_t i = 0; i < std::min(missing.size(), kNamed); ++i) {
    names += (i == 0 ? "" : ", ") + name(missing[i]);
  }
  if (missing.size() > kNamed) {
    names += fmt::format(" and {} more", missing.size() - kNamed);
  }
  throw Error(Errc::comm,
              fmt::format("{}: {} waited {:g} s for {}, in vain; raise parallel.timeout if that is "
                          "too short, else see what stopped there",
                          operation,
                          name(rank_),
                          timeout_seconds_,
                          names));
}

void Watch::stop(const char* operation, std::uint64_t alarm) {
  lost_ = true;
  const int missing = missing_of(alarm);
  const std::string why = missing < 0
                              ? fmt::format("ended the run with exit code {}", code_of(alarm))
                              : fmt::format("gave up waiting for {}", name(missing));
  throw Error(static_cast<Errc>(code_of(alarm)),
              fmt::format("{}: {} stops because {} {}; see what was said there",
                          operation,
                          name(rank_),
                          name(by_of(alarm)),
                          why));
}

void Watch::raise(int exit_code, int missing) noexcept {
  lost_ = true;
  std::uint64_t none = 0;
  if (alarm_ != nullptr) {
    alarm_->compare_exchange_strong(none, pack(exit_code, rank_, missing));
  }
}

}  // namespace strata::parallel
