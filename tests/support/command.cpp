#include "tests/support/command.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace strata::tests {
namespace {

using Strings = std::vector<std::string>;

std::vector<std::string> child_environment(const CommandOptions& options) {
  std::vector<std::string> variables;
  const auto is_replaced = [&](std::string_view variable) {
    const std::string_view name = variable.substr(0, variable.find('='));
    return (name.starts_with("STRATA_") && name.find("__") != std::string_view::npos) ||
           name == "STRATA_KILL_AT" ||
           std::ranges::find(
               options.environment, name, &std::pair<std::string, std::string>::first) !=
               options.environment.end();
  };
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!is_replaced(*variable)) {
      variables.emplace_back(*variable);
    }
  }
  for (const auto& [name, value] : options.environment) {
    variables.push_back(name + "=" + value);
  }
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& s : strings) {
    result.push_back(s.data());
  }
  result.push_back(nullptr);
  return result;
}

/// Between fork and exec: only async-signal-safe calls.
[[noreturn]] void become(const CommandOptions& options,
                         int out,
                         int err,
                         char* const* arguments,
                         char* const* environment) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is killed leaves nobody behind
  setpgid(0, 0);                     // so that a kill reaches its children too
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGXFSZ, SIGPIPE}) {
    std::signal(number, SIG_DFL);
  }
  if (options.file_limit_bytes > 0) {
    const auto bytes = static_cast<rlim_t>(options.file_limit_bytes);
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  if (options.directory.empty() || chdir(options.directory.c_str()) == 0) {
    execve(arguments[0], arguments, environment);
  }
  _exit(127);
}

/// Appends what can be read at once; closes the end and makes it -1 at the end of the stream.
void take(int& fd, std::string& text) {
  char buffer[4096];
  const ssize_t got = read(fd, buffer, sizeof buffer);
  if (got > 0) {
    text.append(buffer, static_cast<std::size_t>(got));
  } else if (got == 0 || errno != EINTR) {
    close(fd);
    fd = -1;
  }
}

}  // namespace

std::string CommandEnd::text() const {
  return (timed_out     ? "timed out"
          : signal != 0 ? std::string("ended by ") + strsignal(signal)
                        : "exit code " + std::to_string(exit_code)) +
         "\nstdout: " + out + "\nstderr: " + err;
}

Command::Command(std::vector<std::string> words, CommandOptions options)
    : deadline_(std::chrono::steady_clock::now() + options.timeout) {
  words.insert(words.begin(), STRATA_BINARY);
  if (options.ranks > 0) {
    Strings launcher{mpirun(),
                     "-np",
                     std::to_string(options.ranks),
                     "--oversubscribe",
                     "--bind-to",
                     "none",
                     "--allow-run-as-root"};
    launcher.insert(launcher.end(), options.launcher.begin(), options.launcher.end());
    words.insert(words.begin(), launcher.begin(), launcher.end());
  }
  std::vector<std::string> variables = child_environment(options);
  const std::vector<char*> arguments = pointers(words), environment = pointers(variables);
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
    throw std::runtime_error("no pipe for a child");
  }
  pid_ = fork();
  if (pid_ == 0) {
    become(options, out[1], err[1], arguments.data(), environment.data());
  }
  close(out[1]);
  close(err[1]);
  out_ = out[0];
  err_ = err[0];
}

Command::~Command() {
  for (const int fd : {out_, err_}) {
    if (fd >= 0) {
      close(fd);
    }
  }
  if (pid_ > 0) {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

bool Command::pump() {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline_ - std::chrono::steady_clock::now());
  if (left.count() <= 0 && !end_.timed_out) {
    end_.timed_out = true;
    kill(-pid_, SIGKILL);
  }
  pollfd ends[] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};  // negative ones are passed over
  poll(ends, 2, static_cast<int>(std::clamp<std::int64_t>(left.count(), 1, 1000)));
  if (ends[0].revents != 0) {
    take(out_, end_.out);
  }
  if (ends[1].revents != 0) {
    take(err_, end_.err);
  }
  return out_ >= 0 || err_ >= 0;
}

bool Command::wait_for_err(std::string_view text) {
  while (end_.err.find(text) == std::string::npos) {
    if (!pump()) {
      return false;
    }
  }
  return true;
}

std::vector<pid_t> Command::children() const {
  const auto task = "/proc/" + std::to_string(pid_) + "/task/";
  std::vector<pid_t> all;
  for (const auto& thread : std::filesystem::directory_iterator(task)) {
    std::ifstream in(thread.path() / "children");
    for (pid_t child = 0; in >> child;) {
      all.push_back(child);
    }
  }
  return all;
}

void Command::signal(int number) const {
  kill(pid_, number);
}

CommandEnd Command::wait() {
  while (pump()) {
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  end_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  end_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return end_;
}

std::string mpirun() {
  std::istringstream path(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string directory; std::getline(path, directory, ':');) {
    if (access((directory + "/mpirun").c_str(), X_OK) == 0) {
      return directory + "/mpirun";
    }
  }
  return "";
}

CommandEnd run_command(std::vector<std::string> words, CommandOptions options) {
  return Command(std::move(words), std::move(options)).wait();
}

}  // namespace strata::tests
