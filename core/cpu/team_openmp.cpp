#include <omp.h>

#include "core/cpu/team.h"

namespace strata::cpu {

void run_team(int members, void (*job)(void*), void* context) {
#pragma omp parallel num_threads(members)
  job(context);
}

void share_team(int members) {
  omp_set_num_threads(members);  // a setting of the calling thread, hence at every entry
}

}  // namespace strata::cpu
