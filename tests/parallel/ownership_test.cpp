#include "parallel/ownership.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace strata::parallel {
namespace {

constexpr std::int64_t kCut = 4096;

std::vector<std::int64_t> loads(const std::vector<ShardSpec>& shards, int world) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(world), 0);
  for (const ShardSpec& s : shards) {
    sums[static_cast<std::size_t>(s.owner)] += s.end - s.begin;
  }
  return sums;
}

/// Every element has one owner and every cut is allowed.
void expect_partition(const std::vector<std::vector<Cuttable>>& blocks,
                      std::vector<ShardSpec> shards) {
  std::sort(shards.begin(), shards.end(), [](const ShardSpec& a, const ShardSpec& b) {
    return std::tie(a.tensor, a.begin) < std::tie(b.tensor, b.begin);
  });
  std::map<TensorId, std::int64_t> covered;
  for (const auto& block : blocks) {
    for (const Cuttable& t : block) {
      for (const ShardSpec& s : shards) {
        if (s.tensor == t.tensor) {
          EXPECT_EQ(s.begin, covered[t.tensor]);
          EXPECT_LT(s.begin, s.end);
          EXPECT_TRUE(s.end == t.numel || s.end % t.cut == 0) << s.end;
          covered[t.tensor] = s.end;
        }
      }
      EXPECT_EQ(covered[t.tensor], t.numel) << "tensor " << t.tensor;
    }
  }
}

TEST(Partition, DivisibleTensorsAreLevelInEveryBlock) {
  std::vector<std::vector<Cuttable>> blocks;
  for (TensorId b = 0; b < 5; ++b) {
    blocks.push_back(
        {{10 * b, 768 * 2304, kCut}, {10 * b + 1, 2304, kCut}, {10 * b + 2, 768, kCut}});
  }
  for (const int world : {1, 2, 3, 4, 7}) {
    const auto shards = partition(blocks, world);
    expect_partition(blocks, shards);
    for (const auto& block : blocks) {
      std::vector<ShardSpec> own;
      for (const ShardSpec& s : shards) {
        if (s.tensor / 10 == block[0].tensor / 10) {
          own.push_back(s);
        }
      }
      const auto sums = loads(own, world);
      const auto [least, most] = std::minmax_element(sums.begin(), sums.end());
      EXPECT_LE(*most - *least, 3 * kCut) << world;
    }
    const auto sums = loads(shards, world);
    const auto [least, most] = std::minmax_element(sums.begin(), sums.end());
    EXPECT_LE(*most - *least, 3 * kCut) << world;  // roundings do not add up
  }
}

TEST(Partition, WholeTensorsGoLargestFirstAndTheRestLevels) {
  const std::vector<std::vector<Cuttable>> blocks = {
      {{0, 100 * kCut, 100 * kCut}, {1, 30 * kCut, kCut}},
      {{2, 60 * kCut, 60 * kCut}, {3, 60 * kCut, 60 * kCut}, {4, 30 * kCut, kCut}}};
  const auto shards = partition(blocks, 2);
  expect_partition(blocks, shards);
  const auto sums = loads(shards, 2);
  EXPECT_EQ(sums[0], 140 * kCut);
  EXPECT_EQ(sums[1], 140 * kCut);
}

TEST(Partition, TinyModelsLeaveRanksWithoutAnything) {
  const std::vector<std::vector<Cuttable>> blocks = {{{0, 5, kCut}}, {{1, 0, kCut}, {2, 7, kCut}}};
  const auto shards = partition(blocks, 8);
  expect_partition(blocks, shards);
  EXPECT_EQ(shards.size(), 2u);
}

TEST(BlockShares, FollowTheLayoutsOfBothPacks) {
  BlockSpec spec;
  spec.params.push_back({{7, "a", Role::matrix, {2, kCut}}, {}});
  spec.params.push_back({{8, "b", Role::vector, {3}}, {}});
  const PackLayout grads{{0, 2 * kCut * 4}, 3 * kCut * 4};
  const PackLayout weights{{64, 64 + 2 * kCut * 2}, 3 * kCut * 2};
  const std::vector<ShardSpec> shards = {{7, kCut, 2 * kCut, 1}, {8, 0, 3, 1}, {7, 0, kCut, 0}};
  const BlockShares shares = block_shares(spec, shards, grads, weights, DType::bf16);
  const std::vector<Share> elements = {
      {0, kCut, 0}, {kCut, 2 * kCut, 1}, {2 * kCut, 2 * kCut + 3, 1}};
  EXPECT_EQ(shares.grads, elements);
  const std::vector<Share> bytes = {{64, 64 + 2 * kCut, 0},
                                    {64 + 2 * kCut, 64 + 4 * kCut, 1},
                                    {64 + 4 * kCut, 64 + 4 * kCut + 6, 1}};
  EXPECT_EQ(shares.weights, bytes);
}

}  // namespace
}  // namespace strata::parallel
