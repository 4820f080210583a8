#include "core/io/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>

#include <fcntl.h>
#include <fmt/format.h>
#include <isa-l/crc.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/io/errors.h"

namespace strata::io {
namespace {

namespace fs = std::filesystem;

// The kernel moves at most 0x7ffff000 bytes per call; the rest is continued.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

int flags_of(Open mode) {
  switch (mode) {
    case Open::read:
      return O_RDONLY;
    case Open::create_new:
      return O_RDWR | O_CREAT | O_EXCL;
    case Open::read_write:
      return O_RDWR | O_CREAT;
  }
  return O_RDONLY;
}

int open_retrying(const char* path, int flags) {
  int fd = -1;
  do {
    fd = ::open(path, flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

fs::path directory_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string transfer_text(std::string_view verb, std::int64_t offset, std::size_t size_bytes) {
  return fmt::format("{} of {} bytes at offset {}", verb, size_bytes, offset);
}

}  // namespace

void FdTraits::destroy(type fd) noexcept {
  ::close(fd);
}

Fd open_file(const fs::path& path, Open mode, Caching caching) {
  const int direct = caching == Caching::direct ? O_DIRECT : 0;
  int fd = open_retrying(path.c_str(), flags_of(mode) | direct);
  if (fd < 0 && errno == EINVAL && direct != 0) {
    // A file system without O_DIRECT may have created the file before it refused the flag.
    fd = open_retrying(path.c_str(), flags_of(mode) & ~O_EXCL);
  }
  if (fd < 0) {
    throw io_error(path, mode == Open::create_new ? "creation" : "opening", errno);
  }
  return Fd(fd);
}

std::int64_t file_size(const Fd& fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) {
    throw io_error(path, "stat", errno);
  }
  return status.st_size;
}

std::string read_text(const fs::path& path) {
  const Fd fd = open_file(path, Open::read);
  std::string text(static_cast<std::size_t>(file_size(fd, path)), '\0');
  read_exact(fd, path, 0, std::as_writable_bytes(std::span(text)));
  return text;
}

void read_exact(const Fd& fd, const fs::path& path, std::int64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::pread(fd.get(), to.data(), std::min(to.size(), kMaxTransfer), offset);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw io_error(path, transfer_text("read", offset, to.size()), errno);
    }
    if (got == 0) {
      throw Error(
          Errc::io,
          fmt::format("io: read of '{}' needed {} more bytes at offset {}, but the file ends "
                      "there: it is truncated or still being written",
                      path.string(),
                      to.size(),
                      offset));
    }
    to = to.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

void write_all(const Fd& fd,
               const fs::path& path,
               std::int64_t offset,
               std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t put =
        ::pwrite(fd.get(), from.data(), std::min(from.size(), kMaxTransfer), offset);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      throw io_error(path, transfer_text("write", offset, from.size()), put < 0 ? errno : EIO);
    }
    from = from.subspan(static_cast<std::size_t>(put));
    offset += put;
  }
}

void sync_file(const Fd& fd, const fs::path& path) {
  if (::fsync(fd.get()) != 0) {
    throw io_error(path, "fsync", errno);
  }
}

void sync_directory(const fs::path& directory) {
  const Fd fd(open_retrying(directory.c_str(), O_RDONLY | O_DIRECTORY));
  if (!fd) {
    throw io_error(directory, "opening of directory", errno);
  }
  if (::fsync(fd.get()) != 0) {
    throw io_error(directory, "fsync of directory", errno);
  }
}

void rename_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    throw io_error(from, "renaming to '" + to.string() + "'", errno);
  }
  rename_new_emulated(from, to);
}

void rename_new_emulated(const fs::path& from, const fs::path& to) {
  const std::string operation = "renaming to '" + to.string() + "'";
  struct stat status {};
  if (::lstat(from.c_str(), &status) != 0) {
    throw io_error(from, operation, errno);
  }
  if (!S_ISDIR(status.st_mode) && ::link(from.c_str(), to.c_str()) == 0) {
    ::unlink(from.c_str());
    return;
  }
  // Directories have no links. Between this look and the rename only an empty directory could be
  // lost: the kernel refuses to replace a full one.
  if (::lstat(to.c_str(), &status) == 0) {
    throw io_error(from, operation, EEXIST);
  }
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw io_error(from, operation, errno);
  }
}

void replace_file(const fs::path& path, std::string_view text) {
  static std::atomic<unsigned> count{0};
  const fs::path part =
      directory_of(path) /
      fmt::format(".{}.{}-{}.tmp", path.filename().string(), ::getpid(), count.fetch_add(1));
  ::unlink(part.c_str());  // of a dead process that had this pid
  try {
    const Fd fd = open_file(part, Open::create_new);
    write_all(fd, part, 0, std::as_bytes(std::span(text)));
    sync_file(fd, part);
    if (::rename(part.c_str(), path.c_str()) != 0) {
      throw io_error(part, "renaming to '" + path.string() + "'", errno);
    }
  } catch (...) {
    ::unlink(part.c_str());
    throw;
  }
  sync_directory(directory_of(path));
}

std::int64_t free_bytes(const fs::path& directory) {
  struct statvfs status {};
  if (::statvfs(directory.c_str(), &status) != 0) {
    throw io_error(directory, "statvfs", errno);
  }
  return static_cast<std::int64_t>(status.f_bavail * status.f_frsize);
}

FileLock::FileLock(const fs::path& path) : fd_(open_file(path, Open::read_write)) {
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      throw io_error(path, "flock", errno);
    }
    std::string holder = read_text(path);
    while (!holder.empty() && holder.back() == '\n') {
      holder.pop_back();
    }
    throw Error(
        Errc::config,
        fmt::format("lock: '{}' is held by process {}: wait for it to end, stop it, or choose "
                    "another directory",
                    path.string(),
                    holder.empty() ? "(just starting)" : holder));
  }
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd_.get(), 0) != 0) {
    throw io_error(path, "truncation", errno);
  }
  write_all(fd_, path, 0, std::as_bytes(std::span(pid)));
}

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
  constexpr std::size_t kMaxPart = std::size_t{1} << 30;  // the library takes an int
  std::uint32_t state = ~seed;
  while (!bytes.empty()) {
    const std::size_t part = std::min(bytes.size(), kMaxPart);
    // The library reads only, but its parameter is not const.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = ::crc32_iscsi(data, static_cast<int>(part), state);
    bytes = bytes.subspan(part);
  }
  return ~state;
}

}  // namespace strata::io
