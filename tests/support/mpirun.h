#pragma once
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace strata::tests {

/// How a run of several ranks ended, and what they said on both streams.
struct MpirunEnd {
  int exit_code = -1;  // of mpirun; 124 when it took too long and was killed
  std::string text;
};

/// Whether mpirun is installed.
bool has_mpirun();

/// Starts `words` (a program and its arguments) as that many ranks, more than there are cores if
/// need be, one computing thread each, with these environment variables; waits for the end.
MpirunEnd run_mpirun(int ranks,
                     const std::vector<std::string>& words,
                     const std::vector<std::pair<std::string, std::string>>& environment = {},
                     std::chrono::seconds timeout = std::chrono::seconds(120));

}  // namespace strata::tests
