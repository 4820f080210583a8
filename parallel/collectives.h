#pragma once
#include <cstdint>
#include <vector>

#include "core/communicator.h"
#include "core/executor.h"

namespace strata::parallel {

/// Where the gradient that a block keeps for a borrowed parameter is added to the owner's.
struct BorrowedGrad {
  int borrower = 0, owner = 0;
  std::int64_t owner_offset = 0;     // bytes in {grads, owner}
  std::int64_t borrower_offset = 0;  // bytes in {borrowed_grads, borrower}
  std::int64_t numel = 0;            // f32 values
};

/// Obeys the collective instructions over a communicator. Replicated data parallelism: every rank
/// holds and updates all weights, so after `reduce` there is nothing to gather or publish.
class RankCollectives final : public Collectives {
 public:
  RankCollectives(Communicator& ranks, std::vector<BorrowedGrad> borrowed);
  void gather(const Instruction& instruction, const Held& packs) override;
  /// Owner's gradient + borrowed one, owner first; then the sum over ranks.
  void reduce(const Instruction& instruction, const Held& packs) override;
  /// Norm from partial sums in (block, tensor, chunk) order; clip coefficient = clip / (norm +
  /// 1e-6) where below 1 (torch.nn.utils.clip_grad_norm_); skip when loss or norm is not finite on
  /// any rank.
  void decide(StepScalars& scalars) override;
  void fold_stats(StepScalars& scalars) override;
  void publish(const Instruction& instruction, const Held& packs) override;
  void send(const Instruction& instruction, const Held& packs) override;
  void recv(const Instruction& instruction, const Held& packs) override;

 private:
  /// What each rank brings to a decision.
  struct Wishes {
    double loss_sum = 0;
    std::int32_t non_finite = 0, stop = 0;
  };
  Communicator& ranks_;
  std::vector<BorrowedGrad> borrowed_;
  // What the ranks brought; members so that a step allocates nothing.
  std::vector<Wishes> wishes_;
  std::vector<double> stats_;
};

}  // namespace strata::parallel
