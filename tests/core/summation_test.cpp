#include "core/summation.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace strata {
namespace {

/// The tree over [0, G) as a formula: "((0+1)+2)".
std::string tree(int begin, int end) {
  if (end - begin == 1) {
    return std::to_string(begin);
  }
  int half = 1;
  while (half * 2 < end - begin) {
    half *= 2;
  }
  return "(" + tree(begin, begin + half) + "+" + tree(begin + half, end) + ")";
}

/// What a world of ranks computes when each follows merges_after and the sums meet in sum_order.
std::string computed(Summation summation, int world, int G) {
  std::vector<std::string> contributions;
  for (int rank = 0; rank < world; ++rank) {
    const MicroBatchRange mine = micro_batch_range(rank, world, G);
    std::map<int, std::string> sums;
    for (int mb = mine.begin; mb < mine.end; ++mb) {
      if (summation == Summation::run) {
        auto& sum = sums[mine.begin];
        sum = sum.empty() ? std::to_string(mb) : "(" + sum + "+" + std::to_string(mb) + ")";
        continue;
      }
      sums[mb] = std::to_string(mb);
      for (const Merge m : merges_after(mb, summation, mine, G)) {
        sums.at(m.left) = "(" + sums.at(m.left) + "+" + sums.at(m.right) + ")";
        sums.erase(m.right);
      }
    }
    std::vector<int> firsts;
    for (const auto& [first, text] : sums) {
      contributions.push_back(text);
      firsts.push_back(first);
    }
    std::vector<int> promised;
    for (const MicroBatchRange node : partial_sums(summation, mine, G)) {
      promised.push_back(node.begin);
    }
    EXPECT_EQ(firsts, promised) << "rank " << rank << " of " << world << ", G " << G;
  }
  const SumOrder order = sum_order(summation, world, G);
  EXPECT_EQ(order.contributions(), static_cast<int>(contributions.size()));
  std::vector<std::string> stack;
  for (const int step : order.steps) {
    if (step != SumOrder::kAdd) {
      stack.push_back(contributions.at(static_cast<std::size_t>(step)));
      continue;
    }
    const std::string right = stack.back();
    stack.pop_back();
    stack.back() = "(" + stack.back() + "+" + right + ")";
  }
  EXPECT_EQ(stack.size(), 1u);
  return stack.back();
}

TEST(Summation, ElasticIsOneTreeForEveryWorld) {
  for (int G = 1; G <= 33; ++G) {
    for (int world = 1; world <= G && world <= 9; ++world) {
      ASSERT_EQ(computed(Summation::elastic, world, G), tree(0, G)) << world << " ranks";
    }
  }
}

TEST(Summation, RunFoldsRanksAndTheirMicroBatchesFromTheLeft) {
  EXPECT_EQ(computed(Summation::run, 1, 3), "((0+1)+2)");
  EXPECT_EQ(computed(Summation::run, 2, 5), "((0+1)+((2+3)+4))");
  EXPECT_EQ(computed(Summation::run, 3, 3), "((0+1)+2)");
}

TEST(Summation, FewSumsAreAliveAtOnce) {
  const int G = 64;
  for (const MicroBatchRange mine : {MicroBatchRange{0, 64}, {5, 64}, {21, 43}}) {
    std::set<int> alive;
    for (int mb = mine.begin; mb < mine.end; ++mb) {
      alive.insert(mb);
      EXPECT_LE(alive.size(), 12u);  // 2 log2(G): a rising and a falling flank
      for (const Merge m : merges_after(mb, Summation::elastic, mine, G)) {
        alive.erase(m.right);
      }
    }
  }
  EXPECT_EQ(sum_order(Summation::elastic, 1, 64).depth(), 1);
}

TEST(Summation, RangesOfRanksAreUnevenByOneAtMost) {
  EXPECT_EQ(micro_batch_range(0, 3, 8), (MicroBatchRange{0, 2}));
  EXPECT_EQ(micro_batch_range(1, 3, 8), (MicroBatchRange{2, 5}));
  EXPECT_EQ(micro_batch_range(2, 3, 8), (MicroBatchRange{5, 8}));
}

}  // namespace
}  // namespace strata
