#include "launch/process.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file.h"

namespace strata::launch {
namespace {

[[noreturn]] void become(const std::vector<std::string>& words,
                         const std::vector<std::pair<std::string, std::string>>& environment) {
  for (const auto& [name, value] : environment) {
    setenv(name.c_str(), value.c_str(), 1);
  }
  std::vector<std::string> owned{"strata"};
  owned.insert(owned.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (std::string& word : owned) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  execv("/proc/self/exe", argv.data());
  _exit(127);
}

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n > 0) {
      text.append(buffer, static_cast<std::size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return text;
    }
  }
}

}  // namespace

Ended run_self(const std::vector<std::string>& words,
               const std::vector<std::pair<std::string, std::string>>& environment,
               std::string* capture) {
  int ends[2] = {-1, -1};
  if (capture != nullptr && pipe(ends) != 0) {
    throw Error(Errc::io, fmt::format("process: no pipe: {}", std::strerror(errno)));
  }
  io::Fd from(ends[0]), to(ends[1]);
  const pid_t child = fork();
  if (child < 0) {
    throw Error(Errc::io, fmt::format("process: cannot start a child: {}", std::strerror(errno)));
  }
  if (child == 0) {
    if (capture != nullptr) {
      dup2(to.get(), STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
    }
    become(words, environment);
  }
  to.reset();
  if (capture != nullptr) {
    *capture = read_all(from.get());
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? Ended{0, WTERMSIG(status)} : Ended{WEXITSTATUS(status), 0};
}

}  // namespace strata::launch
