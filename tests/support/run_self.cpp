#include "tests/support/run_self.h"

#include <algorithm>
#include <filesystem>

#include <spawn.h>
#include <sys/wait.h>

extern char** environ;  // POSIX declares it nowhere

namespace strata::tests {

int run_self(const std::string& filter,
             const std::vector<std::pair<std::string, std::string>>& environment) {
  std::vector<std::string> variables;
  for (const auto& [name, value] : environment) {
    variables.push_back(name + "=" + value);
  }
  const auto is_replaced = [&](const std::string& variable) {
    return std::any_of(environment.begin(), environment.end(), [&](const auto& one) {
      return variable.starts_with(one.first + "=");
    });
  };
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!is_replaced(*variable)) {
      variables.emplace_back(*variable);
    }
  }
  const std::string path = std::filesystem::read_symlink("/proc/self/exe");
  std::vector<std::string> arguments{path, "--gtest_filter=" + filter, "--gtest_brief=1"};
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (std::string& s : strings) {
      result.push_back(s.data());
    }
    result.push_back(nullptr);
    return result;
  };
  pid_t child = 0;
  if (posix_spawn(&child,
                  path.c_str(),
                  nullptr,
                  nullptr,
                  pointers(arguments).data(),
                  pointers(variables).data()) != 0) {
    return -1;
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace strata::tests
