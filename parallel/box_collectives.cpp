#include "parallel/box_collectives.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel_for.h"
#include "parallel/fold.h"

namespace strata::parallel {
namespace {

constexpr std::int64_t kLine = 64;                                     // bytes
constexpr std::int64_t kFloats = kLine / std::int64_t{sizeof(float)};  // in a line
constexpr std::int64_t kCopyGrain = std::int64_t{64} << 10;

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  parallel_for(bytes, kCopyGrain, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  });
}

std::int64_t up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}
std::int64_t down(std::int64_t n, std::int64_t unit) {
  return n / unit * unit;
}
std::size_t at(int rank) {
  return static_cast<std::size_t>(rank);
}

}  // namespace

BoxCollectives::BoxCollectives(Boxes& boxes) : boxes_(boxes) {
  const std::size_t world = at(boxes.size());
  for (auto* bytes : {&traffic_.to, &traffic_.common_from, &traffic_.from, &totals_}) {
    bytes->resize(world);
  }
  laid_out_.resize(world);
  copied_.resize(world);
}

std::int64_t BoxCollectives::begin(std::span<const Share> shares,
                                   std::int64_t piece_limit,
                                   std::int64_t unit) {
  std::fill(totals_.begin(), totals_.end(), 0);
  for (const Share& share : shares) {
    totals_[at(share.owner)] += share.end - share.begin;
  }
  const std::int64_t longest = *std::max_element(totals_.begin(), totals_.end());
  piece_ = std::min(up(longest, unit), down(piece_limit, unit));
  STRATA_ASSERT(piece_ > 0 || longest == 0);
  std::fill(laid_out_.begin(), laid_out_.end(), Walk{});
  std::fill(copied_.begin(), copied_.end(), Walk{});
  mine_ = {};
  return longest == 0 ? 0 : (longest + piece_ - 1) / piece_;
}

std::int64_t BoxCollectives::piece_length(int owner, std::int64_t round) const {
  if (round < 0) {
    return 0;
  }
  return std::clamp<std::int64_t>(totals_[at(owner)] - round * piece_, 0, piece_);
}

/// visit(begin, count, place in the piece) for each stretch of the owner's next piece.
template <class Visit>
void BoxCollectives::next_piece(Walk& walk,
                                std::span<const Share> shares,
                                int owner,
                                const Visit& visit) {
  std::int64_t place = 0;
  while (place < piece_ && walk.share < shares.size()) {
    const Share& share = shares[walk.share];
    const std::int64_t rest = share.end - share.begin - walk.done;
    if (share.owner != owner || rest == 0) {
      ++walk.share;
      walk.done = 0;
      continue;
    }
    const std::int64_t count = std::min(rest, piece_ - place);
    visit(share.begin + walk.done, count, place);
    walk.done += count;
    place += count;
  }
}

void BoxCollectives::lay_out(std::span<const Tensor> parts,
                             const SumOrder& order,
                             std::span<const Share> shares) {
  const auto count = at(order.parts[at(boxes_.rank())]);
  for (int owner = 0; owner < boxes_.size(); ++owner) {
    if (owner == boxes_.rank()) {
      continue;
    }
    auto* const to = reinterpret_cast<float*>(boxes_.for_rank(owner));
    next_piece(laid_out_[at(owner)],
               shares,
               owner,
               [&](std::int64_t begin, std::int64_t n, std::int64_t place) {
                 for (std::size_t p = 0; p < count; ++p) {
                   copy_bytes(reinterpret_cast<std::byte*>(
                                  to + static_cast<std::int64_t>(p) * piece_ + place),
                              parts[p].bytes() + begin * 4,
                              n * 4);
                 }
               });
  }
}

void BoxCollectives::fold_piece(std::span<const Tensor> parts,
                                const SumOrder& order,
                                std::span<const Share> shares,
                                After after) {
  auto* const results =
      after == After::publish ? reinterpret_cast<float*>(boxes_.common()) : nullptr;
  next_piece(
      mine_, shares, boxes_.rank(), [&](std::int64_t begin, std::int64_t n, std::int64_t place) {
        contributions_.clear();
        for (int rank = 0; rank < boxes_.size(); ++rank) {
          for (int p = 0; p < order.parts[at(rank)]; ++p) {
            contributions_.push_back(rank == boxes_.rank()
                                         ? parts[at(p)].data<float>() + begin
                                         : reinterpret_cast<const float*>(boxes_.from_rank(rank)) +
                                               p * piece_ + place);
          }
        }
        fold(parts[0].data<float>() + begin,
             results == nullptr ? nullptr : results + place,
             contributions_,
             order,
             n);
      });
}

void BoxCollectives::copy_pieces(std::byte* to,
                                 std::int64_t unit_bytes,
                                 std::span<const Share> shares) {
  for (int owner = 0; owner < boxes_.size(); ++owner) {
    if (owner == boxes_.rank()) {
      continue;
    }
    const std::byte* const from = boxes_.common_of(owner);
    next_piece(copied_[at(owner)],
               shares,
               owner,
               [&](std::int64_t begin, std::int64_t n, std::int64_t place) {
                 copy_bytes(to + begin * unit_bytes, from + place * unit_bytes, n * unit_bytes);
               });
  }
}

void BoxCollectives::reduce(const char* operation,
                            std::span<const Tensor> parts,
                            const SumOrder& order,
                            std::span<const Share> shares,
                            After after) {
  const int me = boxes_.rank(), world = boxes_.size();
  STRATA_ASSERT(static_cast<int>(order.parts.size()) == world);
  STRATA_ASSERT(!parts.empty() && static_cast<int>(parts.size()) >= order.parts[at(me)]);
  const int most = std::max(1, *std::max_element(order.parts.begin(), order.parts.end()));
  const std::int64_t rounds =
      begin(shares, boxes_.capacity_bytes() / 4 / (most * (world - 1) + 1), kFloats);
  const auto laid_out_bytes = [&](int from, int owner, std::int64_t round) {
    const std::int64_t n = piece_length(owner, round), count = order.parts[at(from)];
    return n == 0 || count == 0 ? 0 : ((count - 1) * piece_ + n) * 4;
  };
  boxes_.divide(piece_ * 4, piece_ * 4 * most);
  const bool publish = after == After::publish;
  const std::int64_t epochs = rounds == 0 ? 0 : rounds + (publish ? 2 : 1);
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    if (publish && epoch >= 2) {
      copy_pieces(parts[0].bytes(), 4, shares);
    }
    if (epoch < rounds) {
      lay_out(parts, order, shares);
    }
    if (epoch >= 1 && epoch <= rounds) {
      fold_piece(parts, order, shares, after);
    }
    if (epoch + 1 == epochs) {
      break;
    }
    for (int rank = 0; rank < world; ++rank) {
      traffic_.to[at(rank)] = laid_out_bytes(me, rank, epoch);
      traffic_.from[at(rank)] = laid_out_bytes(rank, me, epoch);
      traffic_.common_from[at(rank)] = publish ? piece_length(rank, epoch - 1) * 4 : 0;
    }
    traffic_.common = traffic_.common_from[at(me)];
    boxes_.meet(operation, traffic_);
  }
}

void BoxCollectives::all_reduce(std::span<const Tensor> parts, const SumOrder& order) {
  STRATA_ASSERT(!parts.empty());
  const std::int64_t numel = parts[0].numel();
  shares_.clear();
  std::int64_t from = 0;
  for (int rank = 0; rank < boxes_.size(); ++rank) {
    const std::int64_t to = std::min(numel, up(numel * (rank + 1) / boxes_.size(), kFloats));
    shares_.push_back({from, to, rank});
    from = to;
  }
  reduce("all_reduce", parts, order, shares_, After::publish);
}

void BoxCollectives::reduce_scatter(std::span<const Tensor> parts,
                                    const SumOrder& order,
                                    std::span<const Share> shares) {
  reduce("reduce_scatter", parts, order, shares, After::keep);
}

void BoxCollectives::all_gather(const char* operation,
                                std::span<std::byte> bytes,
                                std::span<const Share> shares) {
  const int me = boxes_.rank(), world = boxes_.size();
  const std::int64_t rounds = begin(shares, boxes_.capacity_bytes() / world, kLine);
  boxes_.divide(piece_, 0);
  std::fill(traffic_.to.begin(), traffic_.to.end(), 0);
  std::fill(traffic_.from.begin(), traffic_.from.end(), 0);
  for (std::int64_t round = 0; round < rounds; ++round) {
    if (round > 0) {
      copy_pieces(bytes.data(), 1, shares);
    }
    next_piece(mine_, shares, me, [&](std::int64_t begin, std::int64_t n, std::int64_t place) {
      copy_bytes(boxes_.common() + place, bytes.data() + begin, n);
    });
    for (int rank = 0; rank < world; ++rank) {
      traffic_.common_from[at(rank)] = piece_length(rank, round);
    }
    traffic_.common = traffic_.common_from[at(me)];
    boxes_.meet(operation, traffic_);
  }
  if (rounds > 0) {
    copy_pieces(bytes.data(), 1, shares);
  }
}

void BoxCollectives::gather_all(const char* operation,
                                std::span<std::byte> out,
                                std::span<const std::byte> mine) {
  const auto bytes = static_cast<std::int64_t>(mine.size());
  STRATA_ASSERT(static_cast<std::int64_t>(out.size()) == bytes * boxes_.size());
  shares_.clear();
  for (int rank = 0; rank < boxes_.size(); ++rank) {
    shares_.push_back({rank * bytes, (rank + 1) * bytes, rank});
  }
  copy_bytes(out.data() + boxes_.rank() * bytes, mine.data(), bytes);
  all_gather(operation, out, shares_);
}

void BoxCollectives::broadcast(std::span<std::byte> bytes, int root) {
  const Share all{0, static_cast<std::int64_t>(bytes.size()), root};
  all_gather("broadcast", bytes, {&all, 1});
}

void BoxCollectives::barrier() {
  // A byte of each rank: the answers of all are what it waits for.
  shares_.clear();
  for (int rank = 0; rank < boxes_.size(); ++rank) {
    shares_.push_back({rank, rank + 1, rank});
  }
  answers_.resize(at(boxes_.size()));
  all_gather("barrier", answers_, shares_);
}

}  // namespace strata::parallel
