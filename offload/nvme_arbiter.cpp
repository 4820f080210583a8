#include "offload/nvme_arbiter.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/io/errors.h"

namespace strata::offload {
namespace {

// Time that nobody asked for is kept this long, so that one who comes late loses nothing.
constexpr std::chrono::milliseconds kWindow{10};

void lock_file(const io::Fd& fd, const std::filesystem::path& path, int operation) {
  int status = 0;
  do {
    status = ::flock(fd.get(), operation);
  } while (status != 0 && errno == EINTR);
  if (status != 0) {
    throw io::io_error(path, "flock", errno);
  }
}

}  // namespace

/// steady_clock is one clock for all processes.
struct NvmeArbiter::Shared {
  pthread_mutex_t mutex;  // robust
  std::array<std::int64_t, 2> taken_ns;
};

NvmeArbiter::NvmeArbiter(const std::filesystem::path& directory) : path_(directory / "swap.pace") {
  while (!join()) {
  }
}

NvmeArbiter::~NvmeArbiter() {
  mapping_.reset();
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0 && is_named()) {
    ::unlink(path_.c_str());
  }
}

bool NvmeArbiter::is_named() const {
  struct stat held {
  }, named{};
  return ::fstat(fd_.get(), &held) == 0 && ::stat(path_.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

NvmeArbiter::Shared* NvmeArbiter::shared() const {
  return reinterpret_cast<Shared*>(mapping_.get().data);
}

/// Whoever has the file alone makes it anew; all keep a shared lock. Between the two locks the file
/// may have been made anew or removed: nobody uses it before the second.
bool NvmeArbiter::join() {
  fd_ = io::open_file(path_, io::Open::read_write);
  const bool alone = ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0;
  if (alone && (::ftruncate(fd_.get(), 0) != 0 || ::ftruncate(fd_.get(), sizeof(Shared)) != 0)) {
    throw io::io_error(path_, "truncation", errno);
  }
  if (!alone) {
    lock_file(fd_, path_, LOCK_SH);
    if (io::file_size(fd_, path_) != sizeof(Shared)) {
      return false;
    }
  }
  void* const data =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (data == MAP_FAILED) {
    throw io::io_error(path_, "mapping", errno);
  }
  mapping_ = Handle<MappingTraits>(Mapping{static_cast<std::byte*>(data), sizeof(Shared)});
  if (alone) {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    ::pthread_mutex_init(&shared()->mutex, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
    lock_file(fd_, path_, LOCK_SH);
  }
  return is_named();
}

NvmeArbiter::Clock::time_point NvmeArbiter::reserve(std::size_t direction,
                                                    Clock::duration duration) {
  Shared& all = *shared();
  if (::pthread_mutex_lock(&all.mutex) == EOWNERDEAD) {
    ::pthread_mutex_consistent(&all.mutex);  // a time is written whole or not at all
  }
  using std::chrono::nanoseconds;
  const auto now = std::chrono::duration_cast<nanoseconds>(Clock::now().time_since_epoch());
  const std::int64_t start =
      std::max(all.taken_ns[direction], (now - nanoseconds(kWindow)).count());
  const std::int64_t end = start + std::chrono::duration_cast<nanoseconds>(duration).count();
  all.taken_ns[direction] = end;
  ::pthread_mutex_unlock(&all.mutex);
  return Clock::time_point(std::chrono::duration_cast<Clock::duration>(nanoseconds(end)));
}

}  // namespace strata::offload
