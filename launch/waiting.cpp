#include "launch/waiting.h"

#include <cstdlib>

#include <unistd.h>

namespace strata::launch {

// A spinning team is a little faster on idle cores and several times slower as soon as anything
// else runs there: each region then waits for a thread that lost its core to a spinning one.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);
}

}  // namespace strata::launch
