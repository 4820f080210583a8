#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <omp.h>
#include <unistd.h>

#include "core/cpu/team.h"
#include "core/parallel_for.h"

namespace strata::cpu {

void run_team(int members, void (*job)(void*), void* context) {
#pragma omp parallel num_threads(members)
  job(context);
}

void share_team(int members) {
  omp_set_num_threads(members);  // a setting of the calling thread, hence at every entry
}

}  // namespace strata::cpu

namespace strata {

// libgomp's threads spin for milliseconds before they sleep. With a second rank, a copy lane or
// anything else on the cores, each region then costs time slices: 20 ms against 0.6 ms for 4 MB on
// two busy cores; on idle cores sleeping costs about 20 us a region. libgomp reads its settings
// before main, when it is loaded, and has no function to change this one, hence the restart (a few
// ms).
void restart_with_sleeping_team(char* const* argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (!failed && ::setenv("OMP_WAIT_POLICY", "passive", 0) == 0) {
    ::execv(self.c_str(), argv);
  }
}

}  // namespace strata
