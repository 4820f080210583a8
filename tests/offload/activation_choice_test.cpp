#include "offload/activation_choice.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace strata::offload {
namespace {

using enum Recompute;

/// Blocks alike: bytes and work of each option, on top of what is always there.
struct Costs {
  std::int64_t fixed = 100, saved = 15, products = 9, block = 1;
  double redo = 1, forward = 60;

  RecomputePlan operator()(const RecomputeChoice& choice) const {
    RecomputePlan plan{fixed, 0};
    for (const Recompute r : choice) {
      plan.reserved_bytes += r == none ? saved : r == elementwise ? products : block;
      plan.extra_flops += r == none ? 0 : r == elementwise ? redo : forward;
    }
    return plan;
  }
};

std::optional<double> cheapest_of_all(int blocks, std::int64_t budget, const Costs& costs) {
  std::optional<double> best;
  for (int block = 0; block <= blocks; ++block) {
    for (int some = 0; some + block <= blocks; ++some) {
      RecomputeChoice choice(static_cast<std::size_t>(blocks), none);
      std::fill_n(choice.begin(), block, Recompute::block);
      std::fill_n(choice.begin() + block, some, elementwise);
      const RecomputePlan plan = costs(choice);
      if (plan.reserved_bytes <= budget && (!best || plan.extra_flops < *best)) {
        best = plan.extra_flops;
      }
    }
  }
  return best;
}

TEST(RecomputeChoice, IsTheCheapestThatFitsAtEveryBudget) {
  for (const double forward : {60.0, 4.0, 1.5}) {  // also where recomputing a block pays early
    const Costs costs{.forward = forward};
    for (std::int64_t budget = 90; budget <= 100 + 15 * 12; ++budget) {
      int asked = 0;
      const auto choice = choose_recompute(12, budget, [&](const RecomputeChoice& c) {
        ++asked;
        return costs(c);
      });
      const auto best = cheapest_of_all(12, budget, costs);
      ASSERT_EQ(choice.has_value(), best.has_value()) << budget;
      if (choice) {
        EXPECT_LE(costs(*choice).reserved_bytes, budget);
        EXPECT_EQ(costs(*choice).extra_flops, *best) << budget << ' ' << to_string(*choice);
        EXPECT_TRUE(std::ranges::is_sorted(*choice, std::greater{})) << to_string(*choice);
      }
      EXPECT_LE(asked, forward == 60.0 ? 16 : 80) << budget;
    }
  }
}

/// Ever longer sequences in the same memory: ever more blocks are computed again, and as many as
/// the closed form says: n blocks kept where 100 + tokens (15 n + 1 (12 - n)) fits.
TEST(RecomputeChoice, A23LongerSequencesAreComputedAgainMore) {
  constexpr std::int64_t kBudget = 100 + 15 * 12 * 8;
  std::int64_t before = 0;
  for (std::int64_t tokens = 1; tokens <= 120; ++tokens) {
    const Costs costs{.saved = 15 * tokens, .products = 15 * tokens, .block = tokens};
    const auto choice = choose_recompute(12, kBudget, costs);
    ASSERT_TRUE(choice.has_value()) << tokens;
    const std::int64_t again = std::ranges::count(*choice, Recompute::block);
    const std::int64_t kept = std::min<std::int64_t>(12, ((kBudget - 100) / tokens - 12) / 14);
    EXPECT_EQ(again, 12 - kept) << tokens;
    EXPECT_GE(again, before) << tokens;
    before = again;
  }
  EXPECT_EQ(before, 12);
}

TEST(RecomputeChoice, KeepsEverythingThatFitsWithOneQuestion) {
  int asked = 0;
  const auto choice = choose_recompute(12, 1000, [&](const RecomputeChoice& c) {
    ++asked;
    return Costs{}(c);
  });
  EXPECT_EQ(to_string(choice.value()), "none");
  EXPECT_EQ(asked, 1);
}

TEST(RecomputeChoice, HasACanonicalText) {
  EXPECT_EQ(to_string(RecomputeChoice{block, block}), "block");
  EXPECT_EQ(to_string(RecomputeChoice{}), "none");
  EXPECT_EQ(to_string(RecomputeChoice{block, block, elementwise, none}), "0-1:block,2:elementwise");
  EXPECT_EQ(to_string(RecomputeChoice{none, block, none, elementwise}), "1:block,3:elementwise");
}

}  // namespace
}  // namespace strata::offload
