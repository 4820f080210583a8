#pragma once
#include <optional>
#include <span>

#include "core/program.h"

namespace strata {

/// Whether the ranks' micro-batches are the whole step, one range after the other, and are summed
/// in one order.
std::optional<Diagnosis> check_ranges(std::span<const Program> ranks);

/// Runs the ranks' collectives, sends and receives against each other, as decisions come
/// out: whether somebody waits for ever, or a message is never taken.
std::optional<Diagnosis> check_meetings(std::span<const Program> ranks, Outcomes outcomes);

}  // namespace strata
