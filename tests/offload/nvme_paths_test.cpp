// Several paths: who gets what, how fast, and what is counted.
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "offload/nvme_layout.h"
#include "offload/nvme_pace.h"
#include "offload/nvme_rates.h"
#include "offload/nvme_store.h"
#include "tests/offload/nvme_rig.h"
#include "tests/support/errors.h"

namespace strata::offload::tests {
namespace {

using io::Direction;
using std::chrono::milliseconds;
using strata::tests::expect_error;
using testing::ElementsAre;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(LargestRemainder, ClosedForm) {
  const std::vector<double> rates{6, 3, 1};
  EXPECT_THAT(largest_remainder(10, rates), ElementsAre(6, 3, 1));
  EXPECT_THAT(largest_remainder(7, rates), ElementsAre(4, 2, 1));  // 4.2 2.1 0.7
  EXPECT_THAT(largest_remainder(1, rates), ElementsAre(1, 0, 0));
  EXPECT_THAT(largest_remainder(0, rates), ElementsAre(0, 0, 0));
  EXPECT_THAT(largest_remainder(5, std::vector<double>{1, 1}), ElementsAre(3, 2));
  EXPECT_THAT(largest_remainder(4, std::vector<double>{0, 2}), ElementsAre(0, 4));
  EXPECT_THAT(largest_remainder(1, rates, std::vector<double>{-0.5, 0.4, 0.1}),
              ElementsAre(0, 1, 0));
}

NvmeLayout layout(std::vector<double> rates, std::int64_t budget, std::int64_t alignment = 4096) {
  return NvmeLayout(std::vector<NvmeLayout::Path>(rates.size(), {budget, alignment}), 16384, rates);
}

TEST(NvmeLayout, A6ReservesWhatIsAskedFor) {
  NvmeLayout two = layout({1, 1}, kMiB);
  const std::vector<std::int64_t> sizes{4096, 20480, 3 * 16384 + 4096, 16384};
  two.place(sizes);
  EXPECT_EQ(two.end(0) + two.end(1), std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}));
}

TEST(NvmeLayout, SmallExtentsTogetherFollowTheRates) {
  NvmeLayout made = layout({3, 1}, 100 * kMiB);
  made.place(std::vector<std::int64_t>(400, 16384));
  EXPECT_NEAR(made.share(0), 0.75, 0.005);
}

TEST(NvmeLayout, SmallSlotsMoveToNewRatesWithoutOvershoot) {
  NvmeLayout made = layout({3, 1}, 100 * kMiB);
  std::vector<NvmeLayout::Slot> slots = made.place(std::vector<std::int64_t>(100, 4 * 16384));
  made.set_rates({9, 11});
  for (NvmeLayout::Slot& slot : slots) {
    made.renew(slot);
    const auto first = std::count_if(
        slot.units.begin(), slot.units.end(), [](const auto& unit) { return unit.path == 0; });
    EXPECT_GE(first, 1);  // 1.8
    EXPECT_LE(first, 2);
  }
  EXPECT_NEAR(made.share(0), 0.45, 0.005);
}

TEST(NvmeLayout, UnitsOfNoTwoSlotsOverlap) {
  NvmeLayout made = layout({2, 1}, kMiB);
  std::vector<NvmeLayout::Slot> slots =
      made.place(std::vector<std::int64_t>{200704, 20480, 200704});
  for (const double first : {3.0, 0.5, 4.0, 1.0 / 3}) {
    made.set_rates({first, 1});
    for (NvmeLayout::Slot& slot : slots) {
      made.renew(slot);
    }
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> taken;  // begin, end over all paths
  for (const NvmeLayout::Slot& slot : slots) {
    for (std::size_t k = 0; k < slot.units.size(); ++k) {
      const std::int64_t begin = slot.units[k].path * 10 * kMiB + slot.units[k].offset;
      taken.emplace_back(begin, begin + made.unit_bytes(slot, k));
    }
  }
  std::sort(taken.begin(), taken.end());
  for (std::size_t k = 1; k < taken.size(); ++k) {
    EXPECT_LE(taken[k - 1].second, taken[k].first);
  }
  EXPECT_NEAR(made.share(0), 0.25, 0.1);  // 7 of 28 units, some of them short
}

TEST(NvmeLayout, NothingMovesWithoutFreeUnits) {
  // Each file is full: 6 units of 16384 each.
  NvmeLayout made = layout({1, 1}, 6 * 16384);
  std::vector<NvmeLayout::Slot> slots = made.place(std::vector<std::int64_t>{12 * 16384});
  made.set_rates({3, 1});
  const std::int64_t ends[] = {made.end(0), made.end(1)};
  made.renew(slots[0]);
  EXPECT_DOUBLE_EQ(made.share(0), 0.5);
  EXPECT_EQ(made.end(0), ends[0]);
  EXPECT_EQ(made.end(1), ends[1]);
}

TEST(NvmeLayout, ABudgetBelowTheExtentsIsRefusedWithWhatIsMissing) {
  expect_error(Errc::infeasible, {"200704 bytes", "131072", "69632 bytes are missing"}, [] {
    layout({1, 1}, 65536).place(std::vector<std::int64_t>{200704});
  });
}

TEST(Pace, ExactHoweverLateItIsAsked) {
  Pace pace(1000);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::time_point{} + std::chrono::hours(1);
  Clock::time_point now = start;
  for (int k = 0; k < 100; ++k) {  // 100 times 50 bytes: 5 s
    now = std::max(now, pace.when(50, now)) + milliseconds(k % 7);
    pace.take(50);
  }
  EXPECT_NEAR(std::chrono::duration<double>(now - start).count(), 5, 0.01);
  // Idle time earns nothing.
  pace.rest();
  now += std::chrono::seconds(9);
  EXPECT_EQ(pace.when(50, now), now + milliseconds(50));
  pace.set(0);
  EXPECT_EQ(pace.when(50, now), now);
}

TEST(NvmeRates, SharesFollowWhatMovedBy15Percent) {
  NvmeRates rates(std::vector<NvmePath>{{.directory = {}, .read_rate = 100, .write_rate = 100},
                                        {.directory = {}, .read_rate = 100, .write_rate = 100}});
  std::vector<PathCounters> now(2);
  const auto steps = [&](int count, double first, double second) {
    bool moved = false;
    for (int k = 0; k < count; ++k) {
      now[0].bytes_read += static_cast<std::int64_t>(first);
      now[1].bytes_written += static_cast<std::int64_t>(second);
      now[0].busy_seconds += 1;
      now[1].busy_seconds += 1;
      moved = rates.observe(now) || moved;
    }
    return moved;
  };
  EXPECT_FALSE(steps(50, 110, 90));
  EXPECT_THAT(rates.rates(), ElementsAre(100, 100));
  EXPECT_FALSE(steps(49, 25, 100));
  EXPECT_TRUE(steps(1, 25, 100));
  EXPECT_NEAR(rates.rates()[0], 25, 1);
  EXPECT_NEAR(rates.rates()[1], 100, 1);
}

TEST(NvmeStore, A19SharesFollowTheRatesAndAdapt) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 2);
  config.stripe_bytes = 16 * kKiB;
  config.paths[0].read_rate = config.paths[0].write_rate = 3;
  config.paths[1].read_rate = config.paths[1].write_rate = 1;
  constexpr double kSlow = 30e6;
  constexpr std::int64_t kSize = 32 * 16 * kKiB;
  NvmeStore store(config, {{"a", kSize}, {"b", kSize}, {"c", 8 * kMiB}});
  EXPECT_NEAR(store.share(0), 0.75, 0.03);

  store.set_pace(0, 3 * kSlow, 3 * kSlow);
  store.set_pace(1, kSlow, kSlow);
  Bytes data(8 * kMiB, 3), back(8 * kMiB);
  double best = 0;
  for (int attempt = 0; attempt < 5 && best < 0.92 * 4 * kSlow; ++attempt) {  // of a busy machine
    const auto begin = std::chrono::steady_clock::now();
    write(store, 2, data);
    store.wait(store.read(2, back));
    best = std::max(best, 16 * kMiB / seconds_since(begin));
  }
  EXPECT_GE(best, 0.92 * 4 * kSlow);
  EXPECT_LE(best, 1.03 * 4 * kSlow);
  EXPECT_TRUE(back == data);
  const double moved[] = {static_cast<double>(store.counters(0).bytes_written),
                          static_cast<double>(store.counters(1).bytes_written)};
  EXPECT_NEAR(moved[0] / (moved[0] + moved[1]), 0.75, 0.03);

  store.set_pace(0, 0.75 * kSlow, 0.75 * kSlow);
  const Bytes a(kSize, 1), b(kSize, 2);
  for (int step = 0; step < 100; ++step) {
    const NvmeStore::Ticket first = store.write(0, a), second = store.write(1, b);
    store.wait(first);
    store.wait(second);
    store.note_step();
  }
  // One more, after the shares were made anew for the last time.
  const PathCounters before[] = {store.counters(0), store.counters(1)};
  write(store, 0, a);
  write(store, 1, b);
  const auto written = [&](int path) {
    return static_cast<double>(store.counters(path).bytes_written - before[path].bytes_written);
  };
  EXPECT_NEAR(written(0) / (written(0) + written(1)), 0.75 / 1.75, 0.05);
  EXPECT_TRUE(read(store, 0, kSize) == a);
  EXPECT_TRUE(read(store, 1, kSize) == b);
  store.set_pace(0, 0, 0);
  store.set_pace(1, 0, 0);
  EXPECT_TRUE(read(store, 2, 8 * kMiB) == data);
}

TEST(NvmeStore, APaceHoldsWithin3Percent) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  constexpr double kRate = 16.0 * kMiB;
  config.paths[0].pace_write = kRate;
  config.paths[0].pace_read = 2 * kRate;
  NvmeStore store(config, {{"a", 8 * kMiB}});
  const Bytes data(8 * kMiB, 1);
  Bytes back(8 * kMiB);
  for (const Direction way : {Direction::write, Direction::read}) {
    const double due = way == Direction::write ? 0.5 : 0.25;
    double least = 1000;
    for (int attempt = 0; attempt < 4 && least > 1.03 * due; ++attempt) {  // of a busy machine
      const auto begin = std::chrono::steady_clock::now();
      store.wait(way == Direction::write ? store.write(0, data) : store.read(0, back));
      least = std::min(least, seconds_since(begin));
      EXPECT_GE(least, 0.97 * due);
    }
    EXPECT_LE(least, 1.03 * due);
  }
}

TEST(NvmeStore, A24CountersAreTheBytesOfTheTransfers) {
  const TempDir dir;
  constexpr std::int64_t kSize = 1000 * kKiB;
  for (const int paths : {1, 3}) {
    NvmeStore store(small_config(dir, paths), {{"a", kSize, 2}, {"b", 4096}});
    const Bytes a(kSize, 1), b(4096, 2);
    for (int k = 0; k < 4; ++k) {
      store.wait(store.write_next(0, a));
      store.commit(0);
      write(store, 1, b);
    }
    read(store, 0, kSize);
    std::int64_t written = 0, got = 0;
    double busy = 0;
    for (int path = 0; path < paths; ++path) {
      const PathCounters counters = store.counters(path);
      written += counters.bytes_written;
      got += counters.bytes_read;
      busy += counters.busy_seconds;
      EXPECT_EQ(counters.retries + counters.short_io + counters.crc_failures, 0);
      EXPECT_GE(counters.waited_seconds, 0);
    }
    EXPECT_EQ(written, 4 * (kSize + 4096));
    EXPECT_EQ(got, kSize);
    EXPECT_GT(busy, 0);
  }
}

}  // namespace
}  // namespace strata::offload::tests
