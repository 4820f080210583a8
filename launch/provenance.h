#pragma once
#include <map>
#include <string>

#include "core/state_dict.h"
#include "core/summation.h"
#include "launch/config.h"

namespace strata::launch {

/// What besides the settings decides the bits of a run: instruction set, libraries, device and,
/// where sums depend on it, the number of ranks.
std::map<std::string, std::string> numeric_environment(Summation summation, int ranks);

/// Tells on stderr which settings and which parts of the environment are not those under which
/// `state` was saved, if they may change bits.
void warn_of_differences(const RunState& state,
                         const Settings& settings,
                         const std::map<std::string, std::string>& environment);

}  // namespace strata::launch
