#include "core/summation.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>

#include "core/error.h"

namespace strata {
namespace {

bool inside(MicroBatchRange node, MicroBatchRange mine) {
  return mine.begin <= node.begin && node.end <= mine.end;
}
bool apart(MicroBatchRange node, MicroBatchRange mine) {
  return node.end <= mine.begin || mine.end <= node.begin;
}

/// Nodes inside `mine` that are not part of a larger one, from left to right.
void maximal_nodes(MicroBatchRange node, MicroBatchRange mine, std::vector<MicroBatchRange>& out) {
  if (apart(node, mine)) {
    return;
  }
  if (inside(node, mine)) {
    out.push_back(node);
    return;
  }
  const int cut = tree_split(node);
  maximal_nodes({node.begin, cut}, mine, out);
  maximal_nodes({cut, node.end}, mine, out);
}

/// Merges along the right edge of the tree's part that ends with `micro_batch`, innermost first.
void merges_ending_at(int end,
                      MicroBatchRange node,
                      MicroBatchRange mine,
                      std::vector<Merge>& out) {
  if (node.size() < 2 || apart(node, {end - 1, end})) {
    return;
  }
  const int cut = tree_split(node);
  merges_ending_at(end, {node.begin, cut}, mine, out);
  merges_ending_at(end, {cut, node.end}, mine, out);
  if (node.end == end && inside(node, mine)) {
    out.push_back({node.begin, cut});
  }
}

}  // namespace

MicroBatchRange micro_batch_range(int rank, int world, int micro_batches) {
  const auto cut = [&](std::int64_t r) { return static_cast<int>(r * micro_batches / world); };
  return {cut(rank), cut(rank + 1)};
}

int tree_split(MicroBatchRange node) {
  STRATA_ASSERT(node.size() >= 2);
  return node.begin + static_cast<int>(std::bit_floor(static_cast<unsigned>(node.size() - 1)));
}

bool is_tree_node(MicroBatchRange node, int micro_batches) {
  MicroBatchRange at{0, micro_batches};
  while (at != node && at.size() >= 2 && inside(node, at)) {
    const int cut = tree_split(at);
    at = node.begin < cut ? MicroBatchRange{at.begin, cut} : MicroBatchRange{cut, at.end};
  }
  return at == node;
}

std::vector<MicroBatchRange> partial_sums(Summation summation,
                                          MicroBatchRange mine,
                                          int micro_batches) {
  if (summation == Summation::run) {
    return {mine};
  }
  std::vector<MicroBatchRange> nodes;
  maximal_nodes({0, micro_batches}, mine, nodes);
  return nodes;
}

std::vector<Merge> merges_after(int micro_batch,
                                Summation summation,
                                MicroBatchRange mine,
                                int micro_batches) {
  std::vector<Merge> merges;
  if (summation == Summation::elastic) {
    merges_ending_at(micro_batch + 1, {0, micro_batches}, mine, merges);
  }
  return merges;
}

int SumOrder::contributions() const {
  return std::accumulate(parts.begin(), parts.end(), 0);
}

int SumOrder::depth() const {
  int now = 0, most = 0;
  for (const int step : steps) {
    now += step == kAdd ? -1 : 1;
    most = std::max(most, now);
  }
  return most;
}

SumOrder rank_order(int world) {
  SumOrder order;
  order.parts.assign(static_cast<std::size_t>(world), 1);
  for (int rank = 0; rank < world; ++rank) {
    order.steps.push_back(rank);
    if (rank > 0) {
      order.steps.push_back(SumOrder::kAdd);
    }
  }
  return order;
}

SumOrder sum_order(Summation summation, int world, int micro_batches) {
  if (summation == Summation::run) {
    return rank_order(world);
  }
  SumOrder order;
  std::vector<MicroBatchRange> all;
  for (int rank = 0; rank < world; ++rank) {
    const auto nodes =
        partial_sums(summation, micro_batch_range(rank, world, micro_batches), micro_batches);
    order.parts.push_back(static_cast<int>(nodes.size()));
    all.insert(all.end(), nodes.begin(), nodes.end());
  }
  const std::function<void(MicroBatchRange)> add = [&](MicroBatchRange node) {
    const auto known = std::find(all.begin(), all.end(), node);
    if (known != all.end()) {
      order.steps.push_back(static_cast<int>(known - all.begin()));
      return;
    }
    const int cut = tree_split(node);
    add({node.begin, cut});
    add({cut, node.end});
    order.steps.push_back(SumOrder::kAdd);
  };
  add({0, micro_batches});
  return order;
}

}  // namespace strata
