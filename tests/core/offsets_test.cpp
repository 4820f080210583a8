#include "core/offsets.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "core/philox.h"

namespace strata {
namespace {

constexpr std::int64_t kEvents = 100;

/// By event: whether the buffer is alive. The definition, event by event.
std::vector<bool> alive_at(const Lifetime& lifetime) {
  std::vector<bool> alive(kEvents, false);
  for (const Interval& i : lifetime.live) {
    for (std::int64_t event = i.begin; event < i.end; ++event) {
      alive[static_cast<std::size_t>(event)] = true;
    }
  }
  return alive;
}

bool together(const Lifetime& a, const Lifetime& b) {
  const auto in_a = alive_at(a), in_b = alive_at(b);
  for (std::size_t event = 0; event < kEvents; ++event) {
    if (in_a[event] && in_b[event]) {
      return true;
    }
  }
  return false;
}

/// Bytes alive at the fullest moment: no placement can do with less.
std::int64_t lower_bound(const std::vector<Lifetime>& lifetimes, std::int64_t alignment) {
  std::vector<std::int64_t> alive(kEvents, 0);
  for (const Lifetime& lifetime : lifetimes) {
    const auto at = alive_at(lifetime);
    for (std::size_t event = 0; event < kEvents; ++event) {
      alive[event] += at[event] ? (lifetime.size_bytes + alignment - 1) / alignment * alignment : 0;
    }
  }
  return *std::max_element(alive.begin(), alive.end());
}

std::vector<Lifetime> random_lifetimes(std::uint64_t seed) {
  const RandomKey key{.seed = seed};
  std::vector<Lifetime> lifetimes(2 + key.words(0)[0] % 60);
  for (std::size_t i = 0; i < lifetimes.size(); ++i) {
    const auto words = key.words(i + 1);
    const std::int64_t begin = words[0] % 50, length = 1 + words[1] % (seed % 2 == 0 ? 8 : 50);
    // A third of the cases has few distinct sizes, as activations do.
    lifetimes[i].size_bytes = seed % 3 == 0 ? 64 * (1 + words[2] % 4) : words[2] % 5000;
    lifetimes[i].live = {{begin, begin + length}};
    if (words[3] % 4 == 0 && begin + length < 90) {  // forward and, after a while, backward
      lifetimes[i].live.push_back({begin + length + 3, begin + length + 9});
    }
  }
  return lifetimes;
}

TEST(AssignOffsets, NeverLetsLivingBuffersOverlap) {
  double worst = 1.0, sum = 0.0;
  constexpr int kCases = 200;
  for (std::uint64_t seed = 1; seed <= kCases; ++seed) {
    const std::vector<Lifetime> lifetimes = random_lifetimes(seed);
    const Offsets offsets = assign_offsets(lifetimes);
    ASSERT_EQ(offsets.at.size(), lifetimes.size());
    for (std::size_t i = 0; i < lifetimes.size(); ++i) {
      ASSERT_EQ(offsets.at[i] % 64, 0);
      ASSERT_GE(offsets.at[i], 0);
      ASSERT_LE(offsets.at[i] + lifetimes[i].size_bytes, offsets.total_bytes);
      for (std::size_t j = 0; j < i; ++j) {
        const bool apart = offsets.at[i] + lifetimes[i].size_bytes <= offsets.at[j] ||
                           offsets.at[j] + lifetimes[j].size_bytes <= offsets.at[i];
        ASSERT_TRUE(apart || !together(lifetimes[i], lifetimes[j])) << "seed " << seed;
      }
    }
    const std::int64_t least = lower_bound(lifetimes, 64);
    ASSERT_GE(offsets.total_bytes, least);
    const double ratio = static_cast<double>(offsets.total_bytes) / static_cast<double>(least);
    worst = std::max(worst, ratio);
    sum += ratio;
  }
  // Measured: 1.29 at worst, 1.019 in the mean; one pass of first fit by size loses 1.38 and 1.047.
  EXPECT_LT(worst, 1.35);
  EXPECT_LT(sum / kCases, 1.025);
}

TEST(AssignOffsets, ReusesWhatIsDeadAndFillsGaps) {
  // Two that follow each other share bytes; a third that meets both goes above.
  const Offsets o =
      assign_offsets(std::vector<Lifetime>{{100, {{0, 2}}}, {100, {{2, 4}}}, {64, {{1, 3}}}});
  EXPECT_EQ(o.at, (std::vector<std::int64_t>{0, 0, 128}));
  EXPECT_EQ(o.total_bytes, 192);
  // The third fits into the pause of the first.
  const Offsets paused = assign_offsets(
      std::vector<Lifetime>{{100, {{0, 2}, {4, 6}}}, {64, {{1, 5}}}, {100, {{2, 4}}}});
  EXPECT_EQ(paused.at, (std::vector<std::int64_t>{0, 128, 0}));
  EXPECT_EQ(assign_offsets({}).total_bytes, 0);
  EXPECT_EQ(assign_offsets(std::vector<Lifetime>{{1, {{0, 1}}}, {1, {{0, 1}}}}, 4096).total_bytes,
            8192);
}

}  // namespace
}  // namespace strata
