#pragma once
#include <barrier>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/executor.h"
#include "core/schedule.h"

namespace strata::tests {

/// A model small enough to check by hand: block 0 embeds (table E, (V, C)); block 1 is the loss,
/// owns w (C) and borrows E: y = sum_c x_c w_c E[target, c], loss = (y - 1)^2 / 2 a token.
inline constexpr std::int64_t kFakeV = 8, kFakeC = 4;

/// Contributions rounded to multiples of 2^-12 add exactly in f32, so a sum depends on what was
/// added, not on the order; unrounded ones show the order too.
enum class Contributions : std::uint8_t { exact, rounded };

/// Sizes of every pack for micro-batches [begin, end) of `tokens` tokens each.
PackSizes fake_sizes(int begin, int end, std::int64_t tokens);

/// Packs in maps. New bytes hold a pattern that is not a number, so reading before writing shows.
class FakeStore final : public PackStore {
 public:
  explicit FakeStore(PackSizes sizes) : sizes_(std::move(sizes)) {}
  void start(const Instruction&) override {}
  void finish(const Instruction&) override {}
  void commit(int block, Tier tier) override;
  void discard(int block, Tier tier) override;
  std::span<float> floats(PackKey key);
  std::size_t live() const { return packs_.size(); }
  int discards() const { return discards_; }

 private:
  void create_replica(const Replica& replica) override;
  void destroy_replica(const Replica& replica) override;
  Lease lease(const Replica& replica, Access access) override;
  void release(const Replica& replica, Access) noexcept override { --leases_[replica.key]; }
  PackSizes sizes_;
  std::map<PackKey, std::vector<std::byte>> packs_;
  std::map<PackKey, int> leases_;
  int discards_ = 0;
};

class FakeRunner final : public BlockRunner {
 public:
  FakeRunner(int first_micro_batch, Contributions contributions)
      : first_(first_micro_batch), contributions_(contributions) {}
  void forward(const Instruction& i, const Held& packs, StepScalars& scalars) override;
  void recompute(const Instruction& i, const Held& packs, StepScalars& scalars) override;
  void backward(const Instruction& i, const Held& packs, StepScalars& scalars) override;

 private:
  void loss(const Instruction& i, const Held& packs, StepScalars& scalars) const;
  void contribute(float& to, float value) const;
  int first_;
  Contributions contributions_;
};

/// What ranks in one process share.
struct FakeWorld {
  explicit FakeWorld(int ranks)
      : size(ranks), barrier(ranks), posts(static_cast<std::size_t>(ranks)) {}
  int size;
  std::barrier<> barrier;
  std::vector<void*> posts;
};

/// Flat element ranges of both tensors, one owner a range: rank r owns chunk k when k mod W = r.
inline constexpr std::int64_t kFakeChunk = 4;

class FakeCollectives final : public Collectives {
 public:
  FakeCollectives(int rank, FakeWorld& world, const Program& program)
      : rank_(rank),
        world_(world),
        elastic_(program.summation == Summation::elastic),
        sums_(sum_names(program)),
        order_(sum_order(program.summation, world.size, program.micro_batches)) {}
  void gather(const Instruction&, const Held&) override {}
  void merge(const Instruction& i, const Held& packs) override;
  void reduce(const Instruction& i, const Held& packs) override;
  void decide(StepScalars& scalars) override;
  void decide_block(int block, StepScalars& scalars) override;
  void fold_stats(StepScalars& scalars) override;
  void publish(const Instruction& i, const Held& packs) override;
  void send(const Instruction&, const Held&) override {}
  void recv(const Instruction&, const Held&) override {}

 private:
  std::vector<void*> exchange(void* mine);
  void sum_over_ranks(PackClass cls, int block, const Held& packs);
  int rank_;
  FakeWorld& world_;
  bool elastic_;
  std::vector<int> sums_;
  SumOrder order_;
};

/// Momentum whose step is damped by the norm of the whole tensor's gradient: stateful, with one
/// phase of stats.
class FakeUpdater final : public Updater {
 public:
  FakeUpdater(int rank, int world) : rank_(rank), world_(world) {}
  void norm(const Instruction& i, const Held& packs, StepScalars& scalars) override;
  void stats(const Instruction& i, const Held& packs, StepScalars& scalars) override;
  void update(const Instruction& i, const Held& packs, StepScalars& scalars) override;

 private:
  bool mine(std::int64_t chunk) const { return chunk % world_ == rank_; }
  int rank_, world_;
};

}  // namespace strata::tests
