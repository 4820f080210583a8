#pragma once
#include <cstdint>
#include <limits>

#include "core/program.h"

namespace strata::offload {

/// No limit on what a step writes to files.
inline constexpr std::int64_t kAnyWrites = std::numeric_limits<std::int64_t>::max();

/// What a program writes to files, under the outcome of `decide` that makes it write most.
std::int64_t written_bytes(const Program& program, const PackSizes& sizes);

/// Throws infeasible for a step that writes more than `most`.
void require_writes(const Program& step, const PackSizes& sizes, std::int64_t most);

}  // namespace strata::offload
