#pragma once
#include <cstdint>
#include <vector>

#include <mpi.h>

#include "parallel/mpi_messages.h"
#include "parallel/watch.h"

namespace strata::parallel {

/// MPI as this process has entered it. The handles live until leave_mpi, or until the process ends
/// where a peer is lost: to free them is collective.
struct MpiMachine {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  MPI_Comm collectives = MPI_COMM_NULL;  // all ranks, for sums and gathers
  MPI_Comm messages = MPI_COMM_NULL;     // all ranks, for send and recv
  MPI_Comm local = MPI_COMM_NULL;        // ranks that can share memory
  std::vector<Peer> peers;               // by rank
};

/// Collective; once a process. Throws config where no launcher, or another MPI's, started it.
MpiMachine enter_mpi();
/// Collective. Frees what `machine` and `window` hold (which may be MPI_WIN_NULL) and leaves MPI.
void leave_mpi(MpiMachine& machine, MPI_Win window);

struct SharedWindow {
  MPI_Win window = MPI_WIN_NULL;
  std::vector<std::byte*> segments;  // by local rank; zeros, on page borders
};
/// Memory that all local ranks see, wanted_bytes from each at least. Collective over machine.local.
/// Throws io naming need and free space where the system has too little.
SharedWindow allocate_window(const MpiMachine& machine, std::int64_t wanted_bytes);

/// Says once, on stderr, what to change where a process may not read its neighbour's memory: MPI
/// then copies messages twice and may complain about each. Collective.
void advise_on_single_copy(const MpiMachine& machine);
/// Exchanges a message of a MiB with a neighbour. Throws comm where it does not arrive as sent.
void check_messages(const MpiMachine& machine, Messages& messages);

}  // namespace strata::parallel
