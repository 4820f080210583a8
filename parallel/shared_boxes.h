#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/boxes.h"
#include "parallel/watch.h"

namespace strata::parallel {

/// Boxes in memory that all ranks of a machine share: what is laid out is where it will be read.
/// Ranks meet by counters, one per rank, that their peers watch: a short time without rest, then
/// asleep until the kernel wakes them.
class SharedBoxes final : public Boxes {
 public:
  /// What a rank brings to the shared memory. Zeros, page-aligned.
  static std::int64_t segment_bytes(std::int64_t capacity_bytes);
  /// segments: of all ranks, by rank. idle: called now and then while this rank waits; it says
  /// whether it wants to be called again soon. All three outlive the boxes.
  SharedBoxes(int rank,
              std::vector<std::byte*> segments,
              std::int64_t capacity_bytes,
              std::int64_t spin_ns,
              Watch& watch,
              std::function<bool()> idle);
  /// The alarm of a world with these segments.
  static Alarm& alarm(const std::vector<std::byte*>& segments);

  std::byte* common() override { return box(rank(), epoch_); }
  std::byte* for_rank(int rank) override;
  const std::byte* common_of(int rank) override { return box(rank, epoch_ - 1); }
  const std::byte* from_rank(int rank) override;
  void meet(const char* operation, const Traffic& traffic) override;

 private:
  struct alignas(64) Gate {
    std::atomic<std::uint32_t> epoch;
    std::atomic<std::uint32_t> sleepers;
    alignas(64) Alarm alarm;  // that of rank 0 counts
  };
  Gate& gate(int rank) const;
  std::byte* box(int rank, std::uint32_t epoch) const;
  bool arrived(int rank) const;
  void wait_for(const char* operation, int rank);

  const std::vector<std::byte*> segments_;
  const std::int64_t spin_ns_;
  Watch& watch_;
  const std::function<bool()> idle_;
  std::uint32_t epoch_ = 0;
  std::vector<int> missing_;
};

}  // namespace strata::parallel
