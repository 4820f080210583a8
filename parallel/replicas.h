#pragma once
#include <cstdint>

#include "core/communicator.h"

namespace strata::parallel {

/// Collective. Throws numerics on every rank, naming the ranks whose `mine` is not that of rank 0,
/// unless all are equal: replicas have drifted apart, and every later step would be wrong.
void require_equal_replicas(Communicator& ranks, std::uint64_t mine, std::int64_t step);

}  // namespace strata::parallel
