#pragma once
#include <cstdint>
#include <vector>

#include "core/communicator.h"
#include "core/memory.h"

namespace strata::launch {

/// Bytes of a rank's model at the peak, as its ledger counted them.
struct ModelBytes {
  std::int64_t weights = 0, grads = 0, state = 0;
};
/// Of all ranks, in order. Collective.
std::vector<ModelBytes> gather_model_bytes(Communicator& ranks, const Ledger& ledger);

}  // namespace strata::launch
