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

using Environment = std::vector<std::pair<std::string, std::string>>;

/// Where this program lies; for a launcher that starts it again.
std::string own_path();

/// Runs words[0], found by PATH, with the other words; whatever it says is dropped. Exit code 127
/// where it cannot be started.
Ended run_silently(const std::vector<std::string>& words, const Environment& environment);

/// The same, with our output as its output.
Ended run_program(const std::vector<std::string>& words, const Environment& environment);

/// Runs this program again with other words and extra environment variables; its output is ours.
/// With `capture` its standard output is returned instead.
Ended run_self(const std::vector<std::string>& words,
               const Environment& environment,
               std::string* capture = nullptr);

}  // namespace strata::launch
