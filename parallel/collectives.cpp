#include "parallel/collectives.h"

#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/for_each.h"

namespace strata::parallel {
namespace {

struct AddRule {
  float* to;
  const float* from;
  void operator()(std::int64_t i) const { to[i] = to[i] + from[i]; }
};

float* floats(std::span<std::byte> pack, std::int64_t offset) {
  return reinterpret_cast<float*>(pack.data() + offset);
}

/// Every pair of ranks and every pack has its own tag, so that messages cannot be taken for one
/// another.
int tag_of(const Instruction& i) {
  return (i.block * 4096 + (i.micro_batch & 4095)) * 16 + static_cast<int>(i.cls);
}

}  // namespace

RankCollectives::RankCollectives(Communicator& ranks, std::vector<BorrowedGrad> borrowed)
    : ranks_(ranks),
      borrowed_(std::move(borrowed)),
      wishes_(static_cast<std::size_t>(ranks.size())) {}

void RankCollectives::gather(const Instruction&, const Held&) {}

void RankCollectives::reduce(const Instruction& i, const Held& packs) {
  const auto own = packs[{PackClass::grads, i.block}];
  for (const BorrowedGrad& b : borrowed_) {
    if (b.owner == i.block) {
      const auto theirs = packs[{PackClass::borrowed_grads, b.borrower}];
      for_each(compute_stream(),
               b.numel,
               AddRule{floats(own, b.owner_offset), floats(theirs, b.borrower_offset)});
    }
  }
  if (ranks_.size() > 1) {
    const Tensor whole(
        own.data(), DType::f32, {static_cast<std::int64_t>(own.size() / sizeof(float))});
    ranks_.all_reduce(whole);
  }
}

void RankCollectives::decide(StepScalars& scalars) {
  Wishes mine{0, scalars.non_finite, scalars.stop_requested};
  for (const double sum : scalars.loss_sums) {
    mine.loss_sum += sum;
  }
  ranks_.gather_all(std::as_writable_bytes(std::span(wishes_)), std::as_bytes(std::span(&mine, 1)));
  double loss_sum = 0, squares = 0;
  bool non_finite = false, stop = false;
  for (const Wishes& w : wishes_) {
    loss_sum += w.loss_sum;
    non_finite = non_finite || w.non_finite != 0;
    stop = stop || w.stop != 0;
  }
  for (const auto& block : scalars.partials) {
    for (const double partial : block) {
      squares += partial;
    }
  }
  scalars.stop_requested = stop;
  scalars.loss = loss_sum / static_cast<double>(scalars.inputs.loss_tokens);
  scalars.grad_norm = std::sqrt(squares);
  const double coefficient =
      scalars.inputs.clip > 0 ? scalars.inputs.clip / (scalars.grad_norm + 1e-6) : 1.0;
  if (non_finite || !std::isfinite(scalars.loss) || !std::isfinite(scalars.grad_norm)) {
    scalars.outcome = Outcome::skip;
  } else if (coefficient < 1.0) {
    scalars.outcome = Outcome::clip_below_one;
    scalars.inputs.info.grad_scale = static_cast<float>(coefficient);
  } else {
    scalars.outcome = Outcome::clip_is_one;
  }
}

void RankCollectives::fold_stats(StepScalars& scalars) {
  if (ranks_.size() == 1) {
    return;
  }
  stats_.resize(scalars.stats.size() * static_cast<std::size_t>(ranks_.size()));
  ranks_.gather_all(std::as_writable_bytes(std::span(stats_)),
                    std::as_bytes(std::span(scalars.stats)));
  for (std::size_t slot = 0; slot < scalars.stats.size(); ++slot) {
    double sum = 0;
    for (std::size_t at = slot; at < stats_.size(); at += scalars.stats.size()) {
      sum += stats_[at];
    }
    scalars.stats[slot] = sum;
  }
}

void RankCollectives::publish(const Instruction&, const Held&) {}

void RankCollectives::send(const Instruction& i, const Held& packs) {
  ranks_.send(packs[i.key()], i.peer, tag_of(i));
}

void RankCollectives::recv(const Instruction& i, const Held& packs) {
  ranks_.recv(packs[i.key()], i.peer, tag_of(i));
}

}  // namespace strata::parallel
