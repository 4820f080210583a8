#include "parallel/collectives.h"

#include <algorithm>
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

/// The part of [begin, end) that a share covers.
Share overlap(const Share& share, std::int64_t begin, std::int64_t end) {
  return {std::max(share.begin, begin), std::min(share.end, end), share.owner};
}

/// The shares of a borrower's accumulators: each element belongs to whom the owner's belongs.
std::vector<std::vector<Share>> shares_of_borrowers(const Together& together) {
  std::vector<std::vector<Share>> all(together.shares.size());
  for (const BorrowedGrad& b : together.borrowed) {
    if (together.shares.empty()) {
      break;
    }
    const std::int64_t owner = b.owner_offset / 4, borrower = b.borrower_offset / 4;
    std::vector<Share>& shares = all[static_cast<std::size_t>(b.borrower)];
    for (const Share& share : together.shares[static_cast<std::size_t>(b.owner)].grads) {
      const Share s = overlap(share, owner, owner + b.numel);
      if (s.begin < s.end) {
        shares.push_back({s.begin - owner + borrower, s.end - owner + borrower, s.owner});
      }
    }
    std::sort(shares.begin(), shares.end(), [](const Share& x, const Share& y) {
      return x.begin < y.begin;
    });
  }
  return all;
}

std::vector<int> names(const std::vector<MicroBatchRange>& sums) {
  std::vector<int> all;
  for (const MicroBatchRange& sum : sums) {
    all.push_back(all.empty() ? -1 : sum.begin);
  }
  return all;
}

/// The most micro-batches that one rank has.
std::size_t most_losses(int world, int micro_batches) {
  return static_cast<std::size_t>((micro_batches + world - 1) / world);
}

/// Adds the losses of all ranks in order. `all`: blocks of `stride` doubles, a rank's losses first.
double fold_in_order(
    double from, std::span<const double> all, std::size_t stride, int world, int G) {
  for (int r = 0; r < world; ++r) {
    const MicroBatchRange theirs = micro_batch_range(r, world, G);
    for (int k = 0; k < theirs.size(); ++k) {
      from += all[static_cast<std::size_t>(r) * stride + static_cast<std::size_t>(k)];
    }
  }
  return from;
}

}  // namespace

RankCollectives::RankCollectives(Communicator& ranks, Together together)
    : ranks_(ranks),
      together_(std::move(together)),
      order_(sum_order(together_.summation, ranks.size(), together_.micro_batches)),
      sums_(
          names(partial_sums(together_.summation,
                             micro_batch_range(ranks.rank(), ranks.size(), together_.micro_batches),
                             together_.micro_batches))),
      borrowed_shares_(shares_of_borrowers(together_)) {}

void RankCollectives::gather(const Instruction&, const Held&) {}

void RankCollectives::merge(const Instruction& i, const Held& packs) {
  for (const PackClass cls : {PackClass::grads, PackClass::borrowed_grads}) {
    if (packs.contains({cls, i.block, i.from})) {
      const auto to = packs[{cls, i.block, i.sum}];
      for_each(compute_stream(),
               static_cast<std::int64_t>(to.size() / sizeof(float)),
               AddRule{floats(to, 0), floats(packs[{cls, i.block, i.from}], 0)});
    }
  }
}

/// The first partial sum's pack holds the result.
void RankCollectives::sum_over_ranks(PackClass cls,
                                     int block,
                                     const Held& packs,
                                     std::span<const Share> shares) {
  if (order_.contributions() == 1) {
    return;
  }
  parts_.clear();
  for (const int sum : sums_) {
    const auto pack = packs[{cls, block, sum}];
    parts_.emplace_back(
        pack.data(), DType::f32, Shape{static_cast<std::int64_t>(pack.size() / sizeof(float))});
  }
  if (sharded()) {
    ranks_.reduce_scatter(parts_, order_, shares);
  } else {
    ranks_.all_reduce(parts_, order_);
  }
}

void RankCollectives::add_borrowed(int block, const Held& packs, bool own_shares_only) {
  for (const BorrowedGrad& b : together_.borrowed) {
    if (b.owner != block) {
      continue;
    }
    float* const to = floats(packs[{PackClass::grads, block}], b.owner_offset);
    const float* const from =
        floats(packs[{PackClass::borrowed_grads, b.borrower}], b.borrower_offset);
    if (!own_shares_only) {
      for_each(compute_stream(), b.numel, AddRule{to, from});
      continue;
    }
    const std::int64_t first = b.owner_offset / 4;
    for (const Share& share : together_.shares[static_cast<std::size_t>(block)].grads) {
      const Share s = overlap(share, first, first + b.numel);
      if (s.owner == ranks_.rank() && s.begin < s.end) {
        for_each(compute_stream(),
                 s.end - s.begin,
                 AddRule{to + (s.begin - first), from + (s.begin - first)});
      }
    }
  }
}

void RankCollectives::reduce(const Instruction& i, const Held& packs) {
  const auto b = static_cast<std::size_t>(i.block);
  const std::span<const Share> shares =
      sharded() ? std::span<const Share>(together_.shares[b].grads) : std::span<const Share>();
  if (together_.summation == Summation::run) {
    add_borrowed(i.block, packs, false);
    sum_over_ranks(PackClass::grads, i.block, packs, shares);
    return;
  }
  if (packs.contains({PackClass::grads, i.block})) {  // else it is frozen and lends a gradient
    sum_over_ranks(PackClass::grads, i.block, packs, shares);
  }
  if (packs.contains({PackClass::borrowed_grads, i.block})) {
    sum_over_ranks(PackClass::borrowed_grads,
                   i.block,
                   packs,
                   sharded() ? std::span<const Share>(borrowed_shares_[b]) : shares);
  }
  add_borrowed(i.block, packs, sharded() && ranks_.size() > 1);
}

/// One message a rank: its flags, the losses of its micro-batches and, where ranks own parts of the
/// model, its partial sums of squares, which are 0 where it owns nothing.
double RankCollectives::gather_scalars(StepScalars& scalars) {
  constexpr std::size_t kFlags = 2;
  const int world = ranks_.size();
  const std::size_t losses = most_losses(world, together_.micro_batches);
  mine_.assign(kFlags + losses, 0.0);
  mine_[0] = scalars.non_finite ? 1 : 0;
  mine_[1] = scalars.stop_requested ? 1 : 0;
  std::copy(scalars.loss_sums.begin(), scalars.loss_sums.end(), mine_.begin() + kFlags);
  const bool partial = sharded() && world > 1;
  if (partial) {
    for (const auto& block : scalars.partials) {
      mine_.insert(mine_.end(), block.begin(), block.end());
    }
  }
  const std::size_t stride = mine_.size();
  all_.resize(stride * static_cast<std::size_t>(world));
  ranks_.gather_all(std::as_writable_bytes(std::span(all_)), std::as_bytes(std::span(mine_)));
  for (std::size_t at = 0; at < all_.size(); at += stride) {
    scalars.non_finite = scalars.non_finite || all_[at] != 0;
    scalars.stop_requested = scalars.stop_requested || all_[at + 1] != 0;
  }
  if (partial) {
    std::size_t slot = kFlags + losses;
    for (auto& block : scalars.partials) {
      for (double& value : block) {
        value = 0;
        for (std::size_t at = slot; at < all_.size(); at += stride) {
          value += all_[at];
        }
        ++slot;
      }
    }
  }
  return fold_in_order(
      0.0, std::span(all_).subspan(kFlags), stride, world, together_.micro_batches);
}

namespace {

double sum_of(const std::vector<double>& partials) {
  double sum = 0;
  for (const double partial : partials) {
    sum += partial;
  }
  return sum;
}

/// torch.nn.utils.clip_grad_norm_
double coefficient_of(const StepScalars& scalars, double norm) {
  return scalars.inputs.clip > 0 ? std::min(1.0, scalars.inputs.clip / (norm + 1e-6)) : 1.0;
}

}  // namespace

void RankCollectives::decide(StepScalars& scalars) {
  const double loss_sum = gather_scalars(scalars);
  double squares = 0, least = 1.0;
  const bool apart = !scalars.block_scales.empty();
  for (std::size_t b = 0; b < scalars.partials.size(); ++b) {
    const bool decided = b < scalars.block_squares.size() && scalars.block_squares[b] >= 0;
    if (!decided && !apart) {
      for (const double partial : scalars.partials[b]) {
        squares += partial;
      }
      continue;
    }
    const double of_block = decided ? scalars.block_squares[b] : sum_of(scalars.partials[b]);
    squares += of_block;
    if (apart) {
      const double coefficient = coefficient_of(scalars, std::sqrt(of_block));
      least = std::min(least, coefficient);
      scalars.block_scales[b] = static_cast<float>(coefficient);
    }
  }
  scalars.loss = loss_sum / static_cast<double>(scalars.inputs.loss_tokens);
  scalars.grad_norm = std::sqrt(squares);
  if (!apart) {
    least = coefficient_of(scalars, scalars.grad_norm);
  }
  if (scalars.non_finite || !std::isfinite(scalars.loss) || !std::isfinite(scalars.grad_norm)) {
    scalars.outcome = Outcome::skip;
  } else if (least < 1.0) {
    scalars.outcome = Outcome::clip_below_one;
    scalars.inputs.info.grad_scale = apart ? 1.f : static_cast<float>(least);
  } else {
    scalars.outcome = Outcome::clip_is_one;
  }
}

/// Whether any rank found what is no number, and the block's sums of squares of all.
void RankCollectives::gather_block(int block, StepScalars& scalars) {
  std::vector<double>& partials = scalars.partials[static_cast<std::size_t>(block)];
  const bool partial = sharded() && ranks_.size() > 1;
  const bool loss = std::all_of(scalars.loss_sums.begin(), scalars.loss_sums.end(), [](double x) {
    return std::isfinite(x);
  });
  mine_.assign(1, scalars.non_finite || !loss ? 1.0 : 0.0);
  if (partial) {
    mine_.insert(mine_.end(), partials.begin(), partials.end());
  }
  const std::size_t stride = mine_.size();
  all_.resize(stride * static_cast<std::size_t>(ranks_.size()));
  ranks_.gather_all(std::as_writable_bytes(std::span(all_)), std::as_bytes(std::span(mine_)));
  for (std::size_t at = 0; at < all_.size(); at += stride) {
    scalars.non_finite = scalars.non_finite || all_[at] != 0;
  }
  for (std::size_t chunk = 0; partial && chunk < partials.size(); ++chunk) {
    partials[chunk] = 0;
    for (std::size_t at = 1 + chunk; at < all_.size(); at += stride) {
      partials[chunk] += all_[at];
    }
  }
}

void RankCollectives::decide_block(int block, StepScalars& scalars) {
  gather_block(block, scalars);
  const auto b = static_cast<std::size_t>(block);
  const double squares = sum_of(scalars.partials[b]);
  scalars.block_squares[b] = squares;
  scalars.partials[b].clear();  // folded: the last decision does not add it again
  scalars.non_finite = scalars.non_finite || !std::isfinite(squares);
  if (scalars.non_finite) {
    scalars.outcome = Outcome::skip;
    return;
  }
  double coefficient = 1.0;
  if (!scalars.block_scales.empty()) {
    coefficient = coefficient_of(scalars, std::sqrt(squares));
    scalars.block_scales[b] = static_cast<float>(coefficient);
  }
  scalars.outcome = coefficient < 1.0 ? Outcome::clip_below_one : Outcome::clip_is_one;
}

void RankCollectives::fold_stats(StepScalars& scalars) {
  if (ranks_.size() == 1 || !sharded()) {  // replicas have the same sums
    return;
  }
  all_.resize(scalars.stats.size() * static_cast<std::size_t>(ranks_.size()));
  ranks_.gather_all(std::as_writable_bytes(std::span(all_)),
                    std::as_bytes(std::span(scalars.stats)));
  for (std::size_t slot = 0; slot < scalars.stats.size(); ++slot) {
    double sum = 0;
    for (std::size_t at = slot; at < all_.size(); at += scalars.stats.size()) {
      sum += all_[at];
    }
    scalars.stats[slot] = sum;
  }
}

void RankCollectives::publish(const Instruction& i, const Held& packs) {
  if (sharded()) {
    ranks_.all_gather(packs[{PackClass::weights, i.block}],
                      together_.shares[static_cast<std::size_t>(i.block)].weights);
  }
}

void RankCollectives::send(const Instruction& i, const Held& packs) {
  ranks_.send(packs[i.key()], i.peer, tag_of(i));
}

void RankCollectives::recv(const Instruction& i, const Held& packs) {
  ranks_.recv(packs[i.key()], i.peer, tag_of(i));
}

double fold_losses(Communicator& ranks,
                   double from,
                   std::span<const double> mine,
                   int micro_batches) {
  const std::size_t stride = most_losses(ranks.size(), micro_batches);
  std::vector<double> own(mine.begin(), mine.end());
  own.resize(stride);
  std::vector<double> all(stride * static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(own)));
  return fold_in_order(from, all, stride, ranks.size(), micro_batches);
}

}  // namespace strata::parallel
