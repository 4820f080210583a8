#include "tests/support/mpirun.h"

#include <array>
#include <cstdio>
#include <cstdlib>

#include <sys/wait.h>

namespace strata::tests {
namespace {

std::string quoted(const std::string& word) {
  std::string result = "'";
  for (const char c : word) {
    result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return result + "'";
}

}  // namespace

bool has_mpirun() {
  return std::system("command -v mpirun >/dev/null 2>&1") == 0;
}

MpirunEnd run_mpirun(int ranks,
                     const std::vector<std::string>& words,
                     const std::vector<std::pair<std::string, std::string>>& environment,
                     std::chrono::seconds timeout) {
  std::string command =
      "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1";
  for (const auto& [name, value] : environment) {
    command += " " + quoted(name + "=" + value);
  }
  command += " timeout -k 5 " + std::to_string(timeout.count()) +
             " mpirun --oversubscribe --bind-to none -np " + std::to_string(ranks);
  for (const std::string& word : words) {
    command += " " + quoted(word);
  }
  command += " 2>&1 </dev/null";
  MpirunEnd end;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) {
    return end;
  }
  std::array<char, 4096> buffer{};
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    end.text.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return end;
}

}  // namespace strata::tests
