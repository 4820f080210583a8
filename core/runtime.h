#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/tensor.h"

namespace strata {

/// What a stream is for. On CPU `compute` is the calling thread itself (enqueue = run) and the only
/// owner of an OpenMP team; every other lane is one thread that never opens a team and never spins.
enum class Lane : std::uint8_t { compute, copy_in, copy_out, update, comm };

/// A point in a stream's order, made by Runtime::record; each kind of device has its own.
class Event {
 public:
  virtual ~Event() = default;
};

/// An ordered queue of work on one device.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual Device device() const = 0;
  virtual Lane lane() const = 0;
  /// Runs `work` after everything enqueued before it. An exception is kept and rethrown by the
  /// waiter; until then the stream skips its work. Where enqueue runs the work itself, it throws.
  virtual void enqueue(std::function<void()> work) = 0;
};

struct MemoryInfo {
  std::int64_t free_bytes = 0, total_bytes = 0;
};
enum class HostMemory : std::uint8_t { pageable, pinned };

/// The seam to a kind of device. Kernels do not pass through it; memory, streams and copies do.
class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual Stream& stream(Lane lane) = 0;
  virtual std::shared_ptr<Event> record(Stream& stream) = 0;
  virtual void wait(Stream& waiter, const std::shared_ptr<Event>& event) = 0;
  /// Blocks the caller; rethrows an error of the stream that recorded the event.
  virtual void wait_host(const std::shared_ptr<Event>& event) = 0;
  virtual bool done(const std::shared_ptr<Event>& event) const = 0;
  virtual void copy_async(std::byte* to,
                          const std::byte* from,
                          std::int64_t size_bytes,
                          Stream& stream) = 0;
  virtual void fill_async(std::byte* to,
                          std::byte value,
                          std::int64_t size_bytes,
                          Stream& stream) = 0;
  /// For CPU: MemAvailable, or what the cgroup still allows if that is less.
  virtual MemoryInfo memory_info() const = 0;
};

/// The runtime of a device kind; created on first use. Throws config when this build or machine
/// lacks it.
Runtime& runtime(DeviceKind kind);
inline Stream& compute_stream(DeviceKind kind = DeviceKind::cpu) {
  return runtime(kind).stream(Lane::compute);
}

}  // namespace strata
