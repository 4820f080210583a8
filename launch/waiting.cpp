#include "launch/waiting.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <strings.h>
#include <unistd.h>

namespace strata::launch {

// Measured on two cores with small products, tokens/s of a training step: idle machine 26.5k
// spinning for ever, 20.5k sleeping at once, 26k with a few hundred turns; beside one busy
// process 6.3k, 13.4k and 12.5k. A few hundred turns are right in both worlds.
void wait_briefly(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) {
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
    return "as the OpenMP library chooses";
  }
  return fmt::format("{} (OMP_WAIT_POLICY={})",
                     strcasecmp(policy, "active") == 0    ? "spin for ever"
                     : strcasecmp(policy, "passive") == 0 ? "sleep at once"
                                                          : "as the OpenMP library chooses",
                     policy);
}

}  // namespace strata::launch
