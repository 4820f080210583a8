#include "launch/waiting.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <unistd.h>

namespace strata::launch {

// A spinning team is a little faster on idle cores and several times slower as soon as anything
// else runs there: each region then waits for a thread that lost its core to a spinning one.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  std::error_code unknown;  // by its own path, so that ps and top show its name
  const auto self = std::filesystem::read_symlink("/proc/self/exe", unknown);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  if (!unknown) {
    execv(self.c_str(), argv);
  }
}

}  // namespace strata::launch
