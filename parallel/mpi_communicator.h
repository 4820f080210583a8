#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "core/communicator.h"
#include "parallel/launcher.h"

namespace strata::parallel {

struct MpiOptions {
  /// What sums and gathers go through: memory that all ranks share, where they are on one machine,
  /// else messages.
  enum class Path : std::uint8_t { automatic, window, network };
  Path path = Path::automatic;
  double timeout_seconds = 600;                              // of every wait
  std::int64_t box_bytes = 0;                                // of boxes.h; 0: chosen by path
  std::int64_t message_limit_bytes = std::int64_t{1} << 30;  // MPI counts in int
};

/// All ranks of the launcher, on one machine or many. Enters MPI, once a process; collective. The
/// environment variable STRATA_COMM=window|network overrides an automatic path.
/// `send` copies its bytes and returns. The destructor leaves MPI together with all ranks, which it
/// waits for. Where an exception destroys it, or one of its calls has thrown comm, it leaves alone:
/// the process must then end with an exit code, or call abort() before, so that no peer waits.
/// Ranks of one machine learn of that, and of abort(), within a fraction of a second.
/// Throws config when no launcher started this process or another MPI's did, io when the machine's
/// shared memory is too small, comm when ranks cannot reach each other.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options = {});

/// MPI's own sum over all ranks, in an order of its choice: a yardstick for benchmarks, never a
/// part of a step. A communicator of make_mpi_communicator must be alive.
void library_all_reduce(std::span<float> values);

}  // namespace strata::parallel
