#pragma once
#include <string>
#include <utility>
#include <vector>

namespace strata::tests {

/// Runs the tests of this executable that match `filter` in a process of its own with these
/// environment variables set, for settings that libraries read once. Returns its exit status.
int run_self(const std::string& filter,
             const std::vector<std::pair<std::string, std::string>>& environment);

}  // namespace strata::tests
