#pragma once
#include "launch/blueprint_parts.h"
#include "launch/offloading.h"
#include "offload/simulator.h"

namespace strata::launch {

/// How long the instructions and transfers of a blueprint's programs take at the machine's rates.
/// The blueprint outlives it.
offload::Timing step_timing(const Blueprint::Impl& blueprint, const Offloading& offloading);

}  // namespace strata::launch
