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

}  // namespace
}  // namespace strata
