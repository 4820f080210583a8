#include "core/kill_point.h"

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string>

#include <unistd.h>

namespace strata {
namespace {

struct Armed {
  std::string name;  // empty: nothing is armed
  std::atomic<int> hits_left = 1;

  void set(std::string_view text) {
    const std::size_t colon = text.find(':');
    name = text.substr(0, colon);
    int count = 1;
    if (colon != std::string_view::npos) {
      std::from_chars(text.data() + colon + 1, text.data() + text.size(), count);
    }
    hits_left = count;
  }
};

Armed& armed() {
  static Armed point;
  static const bool from_environment = [] {
    const char* text = std::getenv("STRATA_KILL_AT");
    point.set(text == nullptr ? "" : text);
    return true;
  }();
  static_cast<void>(from_environment);
  return point;
}

}  // namespace

void kill_point(std::string_view name) {
  Armed& point = armed();
  if (point.name.empty() || point.name != name || --point.hits_left != 0) {
    return;
  }
  ::kill(::getpid(), SIGKILL);
  ::pause();
}

void arm_kill_point(std::string_view name_and_count) {
  armed().set(name_and_count);
}

}  // namespace strata
