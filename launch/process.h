#pragma once
#include <string>
#include <utility>
#include <vector>

namespace strata::launch {

/// How a child process ended: by itself with `exit_code`, or by `signal` (0: none).
struct Ended {
  int exit_code = 0;
  int signal = 0;
};

/// Runs this program again with other words and extra environment variables; its output is ours.
/// With `capture` its standard output is returned instead.
Ended run_self(const std::vector<std::string>& words,
               const std::vector<std::pair<std::string, std::string>>& environment,
               std::string* capture = nullptr);

}  // namespace strata::launch
