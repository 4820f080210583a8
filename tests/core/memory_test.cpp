#include "core/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "core/philox.h"

namespace strata {
namespace {

constexpr Tier kHost{TierKind::host, 0};

TEST(Tier, NamesItsIndex) {
  EXPECT_EQ(to_string(Tier{TierKind::device, 0}), "device");
  EXPECT_EQ(to_string(Tier{TierKind::nvme, 1}), "nvme1");
}

TEST(Ledger, KeepsCurrentAndPeakByTierAndLabel) {
  Ledger ledger;
  ledger.add(kHost, "weights", 100);
  ledger.add(kHost, "grads", 50);
  ledger.subtract(kHost, "weights", 100);
  ledger.add(kHost, "grads", 20);
  ledger.add(Tier{}, "weights", 7);
  EXPECT_EQ(ledger.current(kHost), 70);
  EXPECT_EQ(ledger.peak(kHost), 150);
  EXPECT_EQ(ledger.current(Tier{}), 7);
  EXPECT_EQ(ledger.peak(Tier{TierKind::nvme, 0}), 0);
  const auto labels = ledger.labels(kHost);
  EXPECT_EQ(labels.at("weights").current, 0);
  EXPECT_EQ(labels.at("weights").peak, 100);
  EXPECT_EQ(labels.at("grads").peak, 70);
  EXPECT_THROW(ledger.subtract(kHost, "weights", 1), Error);
  EXPECT_THROW(ledger.subtract(kHost, "never", 1), Error);
}

TEST(Arena, IsPageAlignedAndZero) {
  const Arena arena(kHost, 10'000, 10'000);
  EXPECT_GE(arena.size_bytes(), 10'000);
  const auto bytes = arena.range(0, 10'000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % 4096, 0u);
  EXPECT_TRUE(
      std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{}; }));
  bytes.back() = std::byte{1};
  EXPECT_EQ(arena.range(9'999, 1)[0], std::byte{1});
  EXPECT_THROW(arena.range(arena.size_bytes(), 1), Error);
  EXPECT_THROW(arena.range(-1, 1), Error);
}

TEST(Arena, RefusesMoreThanItsBudgetNamingTierNeedAndBudget) {
  try {
    const Arena arena(Tier{TierKind::pinned, 0}, 1001, 1000);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::infeasible);
    const std::string text = error.what();
    for (const char* part : {"pinned", "1001", "1000"}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
}

std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(Arena, CostsNothingUntilTouched) {
  const std::int64_t before = resident_bytes();
  constexpr std::int64_t kHuge = std::int64_t{64} << 30;
  const Arena arena(kHost, kHuge, kHuge);
  EXPECT_LT(resident_bytes() - before, std::int64_t{64} << 20);
}

/// What the kernel notes about the mapping at this address ("rd wr mr mw me ac hg"); empty where it
/// has nothing to say.
std::string mapping_flags(const std::byte* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      inside = at >= begin && at < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line;
    }
  }
  return {};
}

TEST(Arena, AsksForHugePages) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  constexpr std::int64_t kSize = std::int64_t{4} << 20;
  const Arena arena(kHost, kSize, kSize);
  const std::string flags = mapping_flags(arena.range(0, kSize).data());
  if (flags.empty()) {
    GTEST_SKIP() << "/proc/self/smaps has no VmFlags here";
  }
  EXPECT_NE(flags.find(" hg"), std::string::npos) << flags;
}

TEST(Arena, OfNothingIsEmpty) {
  const Arena arena(kHost, 0, 0);
  EXPECT_EQ(arena.size_bytes(), 0);
  EXPECT_TRUE(arena.range(0, 0).empty());
}

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
  constexpr int kCases = 400;
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
  // What first fit by size loses against the bound, measured: 1.38 at worst, 1.047 in the mean.
  EXPECT_LT(worst, 1.4);
  EXPECT_LT(sum / kCases, 1.06);
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
