#include "offload/nvme_file.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/errors.h"

namespace strata::offload {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPage = 4096;
// Someone else who looks whether a lock is dead holds it this short.
constexpr std::chrono::milliseconds kLookTime{300};

std::string boot_id() {
  std::string id;
  try {
    id = io::read_text("/proc/sys/kernel/random/boot_id");
  } catch (const Error&) {
    return "unknown";
  }
  id.erase(std::remove(id.begin(), id.end(), '\n'), id.end());
  return id.empty() ? "unknown" : id;
}

/// The lock of this path, if nobody has it: its file is still the one of that name.
std::optional<io::Fd> try_lock(const fs::path& path, int flags) {
  while (true) {
    io::Fd fd(::open(path.c_str(), flags | O_RDWR | O_CLOEXEC, 0666));
    if (!fd) {
      if (errno == ENOENT && (flags & O_CREAT) == 0) {
        return std::nullopt;
      }
      throw io::io_error(path, "opening", errno);
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        return std::nullopt;
      }
      throw io::io_error(path, "flock", errno);
    }
    struct stat held {
    }, named{};
    if (::fstat(fd.get(), &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      return fd;
    }
  }
}

std::string holder_of(const fs::path& path) {
  try {
    std::string text = io::read_text(path);
    text = text.substr(0, text.find_first_of(" \n"));
    return text.empty() ? "(just starting)" : text;
  } catch (const Error&) {
    return "(unknown)";
  }
}

bool is_swap_lock(const std::string& name) {
  return name.starts_with("swap.") && name.ends_with(".lock");
}

void unlink_quietly(const fs::path& path) {
  std::error_code ignored;
  fs::remove(path, ignored);
}

}  // namespace

void remove_dead_swap_files(const fs::path& directory) {
  std::error_code failed;
  for (fs::directory_iterator at(directory, failed), end; !failed && at != end;
       at.increment(failed)) {
    const fs::path path = at->path();
    if (!is_swap_lock(path.filename().string())) {
      continue;
    }
    try {
      if (const std::optional<io::Fd> lock = try_lock(path, 0)) {
        fs::path file = path;
        unlink_quietly(file.replace_extension(".bin"));
        unlink_quietly(path);
      }
    } catch (const Error&) {
      // Another user's, perhaps: not ours to remove.
    }
  }
}

SwapFile::SwapFile(const fs::path& directory, int rank, int index, const Options& options)
    : path_(directory / fmt::format("swap.{}.{}.bin", rank, index)),
      lock_path_(directory / fmt::format("swap.{}.{}.lock", rank, index)),
      fault_(options.fault) {
  lock();
  try {
    unlink_quietly(path_);
    buffered_ = io::open_file(path_, io::Open::create_new);
    if (options.direct) {
      open_direct(options);
    }
  } catch (...) {
    unlink_quietly(path_);
    unlink_quietly(lock_path_);
    throw;
  }
}

SwapFile::~SwapFile() {
  // In this order: without a lock file there is no file that someone has to remove.
  unlink_quietly(path_);
  unlink_quietly(lock_path_);
}

void SwapFile::lock() {
  const auto until = std::chrono::steady_clock::now() + kLookTime;
  std::optional<io::Fd> held = try_lock(lock_path_, O_CREAT);
  while (!held && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    held = try_lock(lock_path_, O_CREAT);
  }
  if (!held) {
    throw Error(Errc::config,
                fmt::format("nvme: '{}' is used by process {}: wait for it to end, stop it, or "
                            "choose another directory",
                            path_.string(),
                            holder_of(lock_path_)));
  }
  lock_ = std::move(*held);
  const std::string text = fmt::format("{} {}\n", ::getpid(), boot_id());
  if (::ftruncate(lock_.get(), 0) != 0) {
    throw io::io_error(lock_path_, "truncation", errno);
  }
  io::write_all(lock_, lock_path_, 0, std::as_bytes(std::span(text)));
}

void SwapFile::open_direct(const Options& options) {
  const io::Request opening{.bytes = {}, .path = path_.string()};
  const std::int64_t fault = fault_ ? fault_(opening, 0) : 0;
  io::Fd fd(fault < 0 ? -1 : ::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!fd) {
    refusal_ = std::strerror(fault < 0 ? static_cast<int>(-fault) : errno);
    return;
  }
  std::int64_t offset_align = options.alignment_bytes, memory_align = 0;
  struct statx status {};
  if (offset_align == 0 && ::statx(fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    offset_align = status.stx_dio_offset_align;
    memory_align = status.stx_dio_mem_align;
    if (offset_align == 0 || memory_align > kPage) {
      refusal_ = offset_align == 0
                     ? "the file system says so"
                     : fmt::format("memory at multiples of {} is asked for", memory_align);
      return;
    }
  }
  alignment_ = std::max(kPage, offset_align);
  direct_ = std::move(fd);
}

void SwapFile::reserve(std::int64_t size_bytes) {
  if (size_bytes <= size_bytes_) {
    return;
  }
  const io::Request reservation{.direction = io::Direction::write,
                                .offset = size_bytes_,
                                .bytes = {},
                                .path = path_.string()};
  const std::int64_t fault = fault_ ? fault_(reservation, 0) : 0;
  int error = fault < 0 ? static_cast<int>(-fault) : 0;
  if (error == 0 && ::fallocate(buffered_.get(), 0, size_bytes_, size_bytes - size_bytes_) != 0) {
    error = errno;
  }
  const std::int64_t need = size_bytes - size_bytes_;
  if (error == EOPNOTSUPP) {  // a network file system: what is free now has to do
    error = io::free_bytes(path_.parent_path()) < need      ? ENOSPC
            : ::ftruncate(buffered_.get(), size_bytes) != 0 ? errno
                                                            : 0;
  }
  if (error != 0) {
    throw io::io_error(path_, fmt::format("reservation of {} bytes", need), error);
  }
  size_bytes_ = size_bytes;
}

}  // namespace strata::offload
