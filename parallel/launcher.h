#pragma once
#include <optional>

namespace strata::parallel {

/// Whether this process was started as one of several, by mpirun or srun, as their environment
/// variables tell. MPI is entered only then.
bool under_mpi_launcher();

/// How many ranks it started, before MPI is entered; 1 where nothing tells of more.
int ranks_of_launcher();

/// Place among the ranks of this machine.
struct LocalPlace {
  int rank = 0, size = 1;
};
/// As the launcher's environment tells, before MPI is entered; nothing where it does not.
std::optional<LocalPlace> local_place_from_launcher();

}  // namespace strata::parallel
