#pragma once
#include <string>

namespace strata::launch {

/// Chooses how the OpenMP team waits between regions, unless the user did (OMP_WAIT_POLICY or
/// GOMP_SPINCOUNT): where nothing else runs it spins for milliseconds before it sleeps, libgomp's
/// own way, else for some microseconds. libgomp reads its environment when it is loaded, so the
/// program starts itself once more; returns if that is not needed or not possible.
void choose_waiting(char** argv);

/// What threads of the team do between regions, with the variable that says so.
std::string wait_policy();

}  // namespace strata::launch
