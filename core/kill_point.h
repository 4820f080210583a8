#pragma once
#include <string_view>

namespace strata {

/// Ends this process by SIGKILL when the environment variable STRATA_KILL_AT = "name" or "name:nth"
/// names this point (nth hit, from 1): tests of the finished program die inside saves with it.
/// Otherwise a look at a cached flag.
void kill_point(std::string_view name);

/// What STRATA_KILL_AT does at the start, for a forked child of a test. Empty: disarmed.
void arm_kill_point(std::string_view name_and_count);

}  // namespace strata
