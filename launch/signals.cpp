#include "launch/signals.h"

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>

#include <unistd.h>

#include "core/error.h"

namespace strata::launch {
namespace {

constexpr std::int64_t kSecondWishMs = 2000;  // after which a repeated signal means: now

std::atomic<int> first_signal{0};
std::atomic<std::int64_t> first_time_ms{0};

std::int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return std::int64_t{t.tv_sec} * 1000 + t.tv_nsec / 1'000'000;
}

// Only async-signal-safe calls.
extern "C" void handle(int signal) {
  const std::int64_t now = now_ms();
  std::int64_t unset = 0;
  first_time_ms.compare_exchange_strong(unset, now);  // before the wish can be seen
  int first = 0;
  if (!first_signal.compare_exchange_strong(first, signal) && signal == first &&
      now - first_time_ms.load() >= kSecondWishMs) {
    _exit(static_cast<int>(Errc::interrupted));
  }
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = handle;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    sigaction(signal, &action, nullptr);
  }
}

bool stop_requested() {
  return first_signal.load() != 0;
}

const char* stop_signal() {
  switch (first_signal.load()) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "";
  }
}

}  // namespace strata::launch
