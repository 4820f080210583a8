#pragma once
#include <string>

namespace strata::launch {

/// Makes the OpenMP team spin only briefly between regions and then sleep, unless the user chose
/// (OMP_WAIT_POLICY or GOMP_SPINCOUNT). libgomp reads its environment when it is loaded, so the
/// program starts itself once more; returns if that is not needed or not possible.
void wait_briefly(char** argv);

/// What threads of the team do between regions, with the variable that says so.
std::string wait_policy();

}  // namespace strata::launch
