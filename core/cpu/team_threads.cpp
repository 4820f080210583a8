#include <thread>
#include <vector>

#include "core/cpu/team.h"

namespace strata::cpu {

// Fresh threads for every region: slow, but the sanitizer sees every happens-before edge.
void run_team(int members, void (*job)(void*), void* context) {
  std::vector<std::jthread> others;
  for (int i = 1; i < members; ++i) {
    others.emplace_back(job, context);
  }
  job(context);
}

void share_team(int) {}

}  // namespace strata::cpu
