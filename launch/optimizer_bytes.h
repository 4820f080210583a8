#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "core/block.h"
#include "optim/updater.h"

namespace strata::launch {

/// What a method's state takes, to the byte: packs round their fields up.
struct OptimizerBytes {
  std::map<std::string, std::int64_t> state;  // of this rank, by role
  std::int64_t weights = 0;                   // beside the working weights: master, residue, codes
  std::int64_t workspace = 0;                 // of the largest update, refresh included
  std::int64_t all_state() const;
};
OptimizerBytes optimizer_bytes(const optim::OptimizerUpdater& updater,
                               std::span<const BlockSpec> specs);

}  // namespace strata::launch
