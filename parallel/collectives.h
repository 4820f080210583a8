#pragma once
#include <cstdint>
#include <vector>

#include "core/communicator.h"
#include "core/executor.h"
#include "parallel/ownership.h"

namespace strata::parallel {

/// Where the gradient that a block keeps for a borrowed parameter is added to the owner's.
struct BorrowedGrad {
  int borrower = 0, owner = 0;
  std::int64_t owner_offset = 0;     // bytes in {grads, owner}
  std::int64_t borrower_offset = 0;  // bytes in {borrowed_grads, borrower}
  std::int64_t numel = 0;            // f32 values
};

/// What the ranks do together in a step.
struct Together {
  std::vector<BorrowedGrad> borrowed = {};
  Summation summation = Summation::run;
  int micro_batches = 1;  // G, of all ranks
  /// By block; empty: replicated data parallelism, in which every rank updates everything and after
  /// `reduce` there is nothing to publish.
  std::vector<BlockShares> shares = {};
};

/// Obeys the collective instructions over a communicator.
class RankCollectives final : public Collectives {
 public:
  RankCollectives(Communicator& ranks, Together together);
  void gather(const Instruction& instruction, const Held& packs) override;
  void merge(const Instruction& instruction, const Held& packs) override;
  /// Summation::run: owner's gradient + borrowed one, then the sum over ranks. Elastic: each its
  /// own sum over ranks, then owner's + borrowed. With shares only the own ones hold the sum
  /// afterwards.
  void reduce(const Instruction& instruction, const Held& packs) override;
  /// Norm from partial sums in (block, tensor, chunk) order; loss from those of the micro-batches
  /// in order; clip coefficient = clip / (norm + 1e-6) where below 1
  /// (torch.nn.utils.clip_grad_norm_); skip when loss or norm is not finite on any rank.
  /// In ClipScope::pack each block has a coefficient of its own.
  void decide(StepScalars& scalars) override;
  void decide_block(int block, StepScalars& scalars) override;
  void fold_stats(StepScalars& scalars) override;
  /// The owners' working weights to all.
  void publish(const Instruction& instruction, const Held& packs) override;
  void send(const Instruction& instruction, const Held& packs) override;
  void recv(const Instruction& instruction, const Held& packs) override;

 private:
  bool sharded() const { return !together_.shares.empty(); }
  void sum_over_ranks(PackClass cls, int block, const Held& packs, std::span<const Share> shares);
  void add_borrowed(int block, const Held& packs, bool own_shares_only);
  double gather_scalars(StepScalars& scalars);
  void gather_block(int block, StepScalars& scalars);

  Communicator& ranks_;
  Together together_;
  SumOrder order_;
  std::vector<int> sums_;                            // names of this rank's partial sums
  std::vector<std::vector<Share>> borrowed_shares_;  // by borrower, of its borrowed_grads pack
  // Members so that a step allocates nothing.
  std::vector<Tensor> parts_;
  std::vector<double> mine_, all_;
};

/// The sum of the losses of all ranks' micro-batches, in their order, added to `from`. `mine`: this
/// rank's. Whatever the world, the bits are the same. Collective.
double fold_losses(Communicator& ranks,
                   double from,
                   std::span<const double> mine,
                   int micro_batches);

}  // namespace strata::parallel
