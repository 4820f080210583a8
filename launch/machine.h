#pragma once
#include <string>

namespace strata::launch {

/// Cores that this process may use: its affinity mask.
int cores_allowed();

/// As the system names the first one; "unknown" where it does not.
std::string processor_name();

/// What the system does with huge pages: "always", "madvise", "never", "unknown".
std::string huge_pages();

}  // namespace strata::launch
