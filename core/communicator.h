#pragma once
#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace strata {

/// How ranks talk. Float sums always mean: element e = fold over ranks 0..W-1 in f32, however the
/// message is cut and whoever owns e; library reductions are never used on floats. Only the
/// training thread calls. Every call may throw Errc::comm, naming who is missing.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// x: any f32 tensor, in place, equal on all ranks afterwards.
  virtual void all_reduce(Tensor& x) = 0;
  /// Rank r ends with the sum of [ends[r-1], ends[r]); the rest of x is undefined. Uneven ranges
  /// allowed.
  virtual void reduce_scatter(Tensor& x, std::span<const std::int64_t> ends) = 0;
  /// The inverse: every rank's range reaches all.
  virtual void all_gather(Tensor& x, std::span<const std::int64_t> ends) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// out: size() times the bytes of `mine`, in rank order. For votes and small tables.
  virtual void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) = 0;
  virtual void send(std::span<const std::byte> bytes, int to, int tag) = 0;
  virtual void recv(std::span<std::byte> bytes, int from, int tag) = 0;
  virtual void barrier() = 0;
  /// Ends all ranks with this exit code; for a rank that cannot go on.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;
};

}  // namespace strata
