#pragma once
#include <cstdint>
#include <span>

#include "core/summation.h"
#include "core/tensor.h"

namespace strata {

/// A range of elements, or of bytes, and the rank that owns it.
struct Share {
  std::int64_t begin = 0, end = 0;
  int owner = 0;
  friend bool operator==(const Share&, const Share&) = default;
};

/// How ranks talk. A float sum is what its SumOrder says, element by element in f32, however the
/// message is cut and whoever owns the element; library reductions are never used on floats. Every
/// call is collective unless it says otherwise. Only the training thread calls. Every call may
/// throw Errc::comm, naming who is missing.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// parts: this rank's contributions, contiguous f32 tensors of one shape, order.parts[rank()] of
  /// them. parts[0] holds the sum afterwards, equal on all ranks; the others are undefined.
  virtual void all_reduce(std::span<const Tensor> parts, const SumOrder& order) = 0;
  /// parts[0] holds the sum in this rank's shares; the rest is undefined. Shares are ascending and
  /// do not overlap; they may be uneven, of no element, and leave gaps, which nobody sums.
  virtual void reduce_scatter(std::span<const Tensor> parts,
                              const SumOrder& order,
                              std::span<const Share> shares) = 0;
  /// Every rank's shares, in bytes, reach all ranks; gaps stay as they are.
  virtual void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// out: size() times the bytes of `mine`, in rank order. For votes and small tables.
  virtual void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) = 0;
  /// Not collective: one rank sends, one receives; messages of a tag arrive in order.
  virtual void send(std::span<const std::byte> bytes, int to, int tag) = 0;
  virtual void recv(std::span<std::byte> bytes, int from, int tag) = 0;
  virtual void barrier() = 0;
  /// Ends all ranks with this exit code; for a rank that cannot go on. Not collective.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;

  /// One contribution of each rank, folded in rank order.
  void all_reduce(const Tensor& x) { all_reduce({&x, 1}, rank_order(size())); }
  void reduce_scatter(const Tensor& x, std::span<const Share> shares) {
    reduce_scatter({&x, 1}, rank_order(size()), shares);
  }
};

}  // namespace strata
