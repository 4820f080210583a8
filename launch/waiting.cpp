#include "launch/waiting.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include <fmt/format.h>
#include <strings.h>
#include <unistd.h>

#include "parallel/launcher.h"

namespace strata::launch {
namespace {

/// Threads of the whole machine that want a core at this moment, ourselves included.
int running_now() {
  std::ifstream stat("/proc/stat");
  for (std::string word; stat >> word;) {
    if (word == "procs_running") {
      int count = 0;
      stat >> count;
      return count;
    }
  }
  return 1;
}

/// Whether somebody else runs most of the time, not just now and then.
bool machine_is_busy() {
  constexpr int kLooks = 20;
  int busy = 0;
  for (int i = 0; i < kLooks; ++i) {
    busy += running_now() > 1 ? 1 : 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return 2 * busy > kLooks;
}

/// Threads that the command line or the environment asks for; 0: none is named.
int threads_named(char** argv) {
  constexpr std::string_view kName = "--threads";
  for (; *argv != nullptr; ++argv) {
    const std::string_view word = *argv;
    if (word.starts_with(kName) && word.substr(kName.size()).starts_with('=')) {
      return std::atoi(*argv + kName.size() + 1);
    }
    if (word == kName && argv[1] != nullptr) {
      return std::atoi(argv[1]);
    }
  }
  const char* const named = std::getenv("OMP_NUM_THREADS");
  return named == nullptr ? 0 : std::atoi(named);
}

/// Whether the ranks of this machine have more threads than it has cores. Ranks that are told
/// nothing share the cores out; and then others that run are each other.
bool ranks_crowd(int ranks, char** argv) {
  return ranks * threads_named(argv) > static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

// Measured on two virtual cores, tokens/s of a training step with small products: idle machine
// 26.5k spinning for ever, 20.5k sleeping at once, 26k with a few hundred turns; beside one busy
// process 6.3k, 13.4k and 12.5k. A core that sleeps is given away by its host and comes back late:
// spinning for milliseconds, as libgomp does unasked, is worth 3 to 6 % of gpt2-124m's step where
// nothing else runs.
void choose_waiting(char** argv) {
  const auto ranks = parallel::local_place_from_launcher();
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr ||
      (ranks ? !ranks_crowd(ranks->size, argv) : !machine_is_busy())) {
    return;
  }
  std::error_code unknown;  // by its own path, so that ps and top show its name
  const auto self = std::filesystem::read_symlink("/proc/self/exe", unknown);
  setenv("GOMP_SPINCOUNT", "500", 1);
  if (!unknown) {
    execv(self.c_str(), argv);
  }
}

std::string wait_policy() {
  if (const char* turns = std::getenv("GOMP_SPINCOUNT"); turns != nullptr) {  // the stronger one
    return fmt::format("spin {0} turns, then sleep (GOMP_SPINCOUNT={0})", turns);
  }
  const char* policy = std::getenv("OMP_WAIT_POLICY");
  if (policy == nullptr) {
    return "spin for milliseconds, then sleep (libgomp's own way)";
  }
  return fmt::format("{} (OMP_WAIT_POLICY={})",
                     strcasecmp(policy, "active") == 0    ? "spin for ever"
                     : strcasecmp(policy, "passive") == 0 ? "sleep at once"
                                                          : "as the OpenMP library chooses",
                     policy);
}

}  // namespace strata::launch
