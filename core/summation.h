#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace strata {

/// In which order the gradients of a step's micro-batches are added (DESIGN 5.2).
/// run: every rank from left to right, then the ranks from left to right; the bits belong to a
/// world size. elastic: along one binary tree over all micro-batches, whoever computes them.
enum class Summation : std::uint8_t { run, elastic };

/// Consecutive micro-batches of a step, global numbers, half open.
struct MicroBatchRange {
  int begin = 0, end = 0;
  int size() const { return end - begin; }
  friend bool operator==(const MicroBatchRange&, const MicroBatchRange&) = default;
};
/// Micro-batches of a rank: [floor(r G / W), floor((r + 1) G / W)).
MicroBatchRange micro_batch_range(int rank, int world, int micro_batches);

/// Where a node of the tree is cut: its first micro-batch plus the largest power of two below its
/// size, which is at least two.
int tree_split(MicroBatchRange node);

/// Whether the tree over [0, micro_batches) has this node.
bool is_tree_node(MicroBatchRange node, int micro_batches);

/// Partial sums that a rank with the micro-batches `mine` brings to the others, in order. run: one;
/// elastic: the maximal nodes of the tree over [0, micro_batches) inside `mine`.
std::vector<MicroBatchRange> partial_sums(Summation summation,
                                          MicroBatchRange mine,
                                          int micro_batches);

/// Two neighbours, named by their first micro-batch, that become one node of the tree.
struct Merge {
  int left = 0, right = 0;
  friend bool operator==(const Merge&, const Merge&) = default;
};
/// Merges that `mine` allows as soon as `micro_batch` has been added as a sum of its own; empty in
/// Summation::run. At most log2(micro_batches) + 1 sums are alive at any time.
std::vector<Merge> merges_after(int micro_batch,
                                Summation summation,
                                MicroBatchRange mine,
                                int micro_batches);

/// How the contributions of all ranks are added, the same for every element: `parts` says how many
/// each rank brings; they are numbered from 0 in rank order. `steps` is a postfix expression: a
/// number pushes that contribution, kAdd replaces the two on top, a under b, by a + b in f32.
struct SumOrder {
  static constexpr int kAdd = -1;
  std::vector<int> parts;
  std::vector<int> steps;
  int contributions() const;
  /// The largest number of values on the stack.
  int depth() const;
};
SumOrder sum_order(Summation summation, int world, int micro_batches);
/// ((x0 + x1) + x2) + ...: one contribution of each rank.
SumOrder rank_order(int world);

}  // namespace strata
