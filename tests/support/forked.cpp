#include "tests/support/forked.h"

#include <cstdio>
#include <cstdlib>
#include <exception>

#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

namespace strata::tests {
namespace {

constexpr int kNotPermitted = 77;

void send(int fd, const std::string& text) {
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t put = ::write(fd, text.data() + sent, text.size() - sent);
    if (put <= 0) {
      return;
    }
    sent += static_cast<std::size_t>(put);
  }
}

[[noreturn]] void run_child(int fd, const std::function<std::string()>& body) {
  int code = 0;
  try {
    send(fd, body());
  } catch (const std::exception& error) {
    send(fd, error.what());
    code = 1;
  }
  std::_Exit(code);
}

ChildEnd collect(pid_t child, int fd) {
  ChildEnd end;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(fd, buffer, sizeof buffer)) > 0;) {
    end.text.append(buffer, static_cast<std::size_t>(got));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return end;
}

bool mount_tmpfs(const TempDir& mount_point, std::int64_t size_bytes) {
  if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return false;
  }
  const std::string options = "size=" + std::to_string(size_bytes);
  return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", mount_point.path().c_str(), "tmpfs", 0, options.c_str()) == 0;
}

}  // namespace

ChildEnd run_forked(const std::function<std::string()>& body) {
  int ends[2] = {-1, -1};
  if (::pipe(ends) != 0) {
    return {};
  }
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    run_child(ends[1], body);
  }
  ::close(ends[1]);
  const ChildEnd end = collect(child, ends[0]);
  ::close(ends[0]);
  return end;
}

std::optional<ChildEnd> run_on_small_disk(const TempDir& mount_point,
                                          std::int64_t size_bytes,
                                          const std::function<std::string()>& body) {
  const ChildEnd end = run_forked([&]() -> std::string {
    if (!mount_tmpfs(mount_point, size_bytes)) {
      std::_Exit(kNotPermitted);
    }
    return body();
  });
  return end.exit_code == kNotPermitted ? std::nullopt : std::optional(end);
}

}  // namespace strata::tests
