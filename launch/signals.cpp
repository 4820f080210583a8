#include "launch/signals.h"

#include <atomic>
#include <csignal>
#include <ctime>

#include <unistd.h>

#include "core/error.h"

namespace strata::launch {
namespace {

constexpr long kSecondWish = 2;  // seconds after which a repeated signal means: now

std::atomic<int> first_signal{0};
std::atomic<long> first_time{0};

long now_seconds() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec;
}

// Only async-signal-safe calls.
extern "C" void handle(int signal) {
  int none = 0;
  if (first_signal.compare_exchange_strong(none, signal)) {
    first_time = now_seconds();
  } else if (now_seconds() - first_time.load() >= kSecondWish) {
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
