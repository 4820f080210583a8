#include "launch/process.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file.h"

namespace strata::launch {
namespace {

[[noreturn]] void become(const char* program,
                         std::vector<std::string> words,
                         const Environment& environment) {
  for (const auto& [name, value] : environment) {
    setenv(name.c_str(), value.c_str(), 1);
  }
  std::vector<char*> argv;
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  execvp(program, argv.data());
  _exit(127);
}

/// A child that does `work`, which does not return.
template <typename Work>
pid_t start(Work work) {
  const pid_t child = fork();
  if (child < 0) {
    throw Error(Errc::io, fmt::format("process: cannot start a child: {}", std::strerror(errno)));
  }
  if (child == 0) {
    work();
  }
  return child;
}

Ended wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? Ended{0, WTERMSIG(status)} : Ended{WEXITSTATUS(status), 0};
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

std::string own_path() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

Ended run_silently(const std::vector<std::string>& words, const Environment& environment) {
  return wait_for(start([&] {
    const int nowhere = open("/dev/null", O_RDWR);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      dup2(nowhere, stream);
    }
    become(words[0].c_str(), words, environment);
  }));
}

Ended run_program(const std::vector<std::string>& words, const Environment& environment) {
  return wait_for(start([&] { become(words[0].c_str(), words, environment); }));
}

Ended run_self(const std::vector<std::string>& words,
               const Environment& environment,
               std::string* capture) {
  int ends[2] = {-1, -1};
  if (capture != nullptr && pipe(ends) != 0) {
    throw Error(Errc::io, fmt::format("process: no pipe: {}", std::strerror(errno)));
  }
  io::Fd from(ends[0]), to(ends[1]);
  const pid_t child = start([&] {
    if (capture != nullptr) {
      dup2(to.get(), STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
    }
    std::vector<std::string> all{"strata"};
    all.insert(all.end(), words.begin(), words.end());
    become("/proc/self/exe", std::move(all), environment);
  });
  to.reset();
  if (capture != nullptr) {
    *capture = read_all(from.get());
  }
  return wait_for(child);
}

}  // namespace strata::launch
