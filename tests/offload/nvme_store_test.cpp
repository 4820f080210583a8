#include "offload/nvme_store.h"

#include <thread>

#include <gtest/gtest.h>

#include "tests/offload/nvme_rig.h"
#include "tests/support/allocation_count.h"
#include "tests/support/errors.h"

namespace strata::offload::tests {
namespace {

using strata::tests::expect_error;
using Engine = io::QueueConfig::Engine;

class NvmeStoreTest : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    if (GetParam() == Engine::uring && !io::uring_available()) {
      GTEST_SKIP() << "the kernel grants no io_uring";
    }
  }
  NvmeConfig config(int paths) { return small_config(dir_, paths, GetParam()); }
  TempDir dir_;
};

TEST_P(NvmeStoreTest, OddSizesComeBackOverOneToThreePaths) {
  const std::int64_t sizes[] = {4096, 61440, 65536, 69632, 200704, 1056768};
  for (int paths = 1; paths <= 3; ++paths) {
    std::vector<ExtentSpec> specs;
    for (const std::int64_t size : sizes) {
      specs.push_back({"extent of " + std::to_string(size), size});
    }
    NvmeStore store(config(paths), specs);
    std::vector<Bytes> data;
    std::vector<NvmeStore::Ticket> tickets;
    for (unsigned e = 0; e < std::size(sizes); ++e) {
      data.emplace_back(sizes[e], e + 1);
      tickets.push_back(store.write(static_cast<int>(e), data.back()));
    }
    for (std::size_t k = tickets.size(); k > 0; --k) {
      store.wait(tickets[k - 1]);
    }
    for (int round = 0; round < 2; ++round) {
      for (int e = 0; e < static_cast<int>(std::size(sizes)); ++e) {
        EXPECT_TRUE(read(store, e, sizes[e]) == data[static_cast<std::size_t>(e)])
            << sizes[e] << " over " << paths;
      }
    }
    for (int path = 0; path < paths; ++path) {
      EXPECT_GT(store.counters(path).bytes_written, 0) << path;
    }
  }
}

TEST_P(NvmeStoreTest, GenerationsCommitAndDiscard) {
  constexpr std::int64_t kSize = 300 * 4096;
  NvmeStore store(config(2), {{"state of block 0", kSize, 2}, {"weights", kSize, 1}});
  const Bytes first(kSize, 1), second(kSize, 2), third(kSize, 3);
  write(store, 0, first);
  store.wait(store.write_next(0, second));
  EXPECT_TRUE(read(store, 0, kSize) == first);
  store.commit(0);
  EXPECT_TRUE(read(store, 0, kSize) == second);
  store.wait(store.write_next(0, third));
  store.discard(0);
  EXPECT_TRUE(read(store, 0, kSize) == second);
  expect_error(Errc::internal, {"state of block 0", "next generation"}, [&] { store.commit(0); });
  expect_error(Errc::internal, {"weights", "one generation"}, [&] {
    static_cast<void>(store.write_next(1, first));
  });
  const NvmeStore::Ticket flying = store.write_next(0, first);
  // Either is too early, or no longer: both are right, a torn generation is not.
  try {
    store.commit(0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::internal);
    store.wait(flying);
    store.commit(0);
  }
  EXPECT_TRUE(read(store, 0, kSize) == first);
}

TEST_P(NvmeStoreTest, TransfersOfAnExtentKeepTheirOrder) {
  constexpr std::int64_t kSize = 40 * 4096;
  NvmeConfig settings = config(2);
  std::atomic<unsigned> calls = 0;
  settings.fault = [&](const io::Request& request, std::int64_t result) {
    if (!request.bytes.empty() && calls++ % 3 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    return result;
  };
  NvmeStore store(settings, {{"a", kSize}, {"b", kSize}});
  std::vector<Bytes> versions, seen;
  for (unsigned k = 0; k < 6; ++k) {
    versions.emplace_back(kSize, k + 1);
    seen.emplace_back(kSize);
    seen.emplace_back(kSize);
  }
  std::vector<NvmeStore::Ticket> tickets;
  for (std::size_t k = 0; k < versions.size(); ++k) {
    tickets.push_back(store.write(0, versions[k]));
    tickets.push_back(store.read(0, seen[2 * k]));
    tickets.push_back(store.read(0, seen[2 * k + 1]));
  }
  for (const NvmeStore::Ticket ticket : tickets) {
    store.wait(ticket);
  }
  for (std::size_t k = 0; k < versions.size(); ++k) {
    EXPECT_TRUE(seen[2 * k] == versions[k]) << k;
    EXPECT_TRUE(seen[2 * k + 1] == versions[k]) << k;
  }
}

TEST_P(NvmeStoreTest, DoneTellsAndTicketsAreUsedOnce) {
  NvmeStore store(config(1), {{"a", 8192}});
  const Bytes data(8192, 1);
  const NvmeStore::Ticket ticket = store.write(0, data);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!store.done(ticket) && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(store.done(ticket));
  store.wait(ticket);
  expect_error(Errc::internal, {"ticket", "used up"}, [&] { store.wait(ticket); });
  expect_error(Errc::internal, {"ticket 77"}, [&] { static_cast<void>(store.done(77)); });
  expect_error(Errc::internal, {"no extent 1"}, [&] { static_cast<void>(store.write(1, data)); });
  expect_error(Errc::internal, {"'a'", "8192 bytes", "4096"}, [&] {
    static_cast<void>(store.write(0, data.span().first(4096)));
  });
}

TEST_P(NvmeStoreTest, TheEndWaitsAndLeavesNothing) {
  const std::size_t descriptors = open_descriptors(), threads = living_threads();
  const Bytes data(2 * kMiB, 1);
  {
    NvmeStore store(config(2), {{"a", 2 * kMiB}});
    EXPECT_EQ(entries_of(dir_ / "path0"), 2u);  // the file and its lock
    const std::size_t made = open_descriptors(), running = living_threads();
    for (int k = 0; k < 5; ++k) {
      write(store, 0, data);
      EXPECT_TRUE(read(store, 0, 2 * kMiB) == data);
    }
    EXPECT_EQ(open_descriptors(), made);
    EXPECT_TRUE(threads_come_down_to(running));
    static_cast<void>(store.write(0, data));
  }
  EXPECT_EQ(entries_of(dir_ / "path0"), 0u);
  EXPECT_EQ(entries_of(dir_ / "path1"), 0u);
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_TRUE(threads_come_down_to(threads));
}

TEST_P(NvmeStoreTest, ReadsGoBeforeWritesWhichKeepAQuarter) {
  NvmeConfig settings = config(1);
  settings.paths[0].depth = 16;
  std::vector<io::Direction> order;
  settings.fault = [&](const io::Request& request, std::int64_t result) {
    if (!request.bytes.empty()) {
      order.push_back(request.direction);
    }
    return result;
  };
  constexpr std::int64_t kSize = 4 * kMiB;
  NvmeStore store(settings, {{"a", kSize}, {"b", kSize}});
  const Bytes data(kSize, 1);
  write(store, 1, data);
  order.clear();
  Bytes back(kSize);
  store.set_pace(0, 1, 1);  // both wait, then both may start
  const NvmeStore::Ticket writing = store.write(0, data);
  const NvmeStore::Ticket reading = store.read(1, back);
  store.set_pace(0, 0, 0);
  store.wait(reading);
  store.wait(writing);
  EXPECT_TRUE(back == data);
  ASSERT_EQ(order.size(), 256u);  // of 32 KiB
  const auto before_half_of = [&](io::Direction one) {
    std::int64_t ones = 0, others = 0;
    for (auto at = order.begin(); ones < 64; ++at) {
      ++(*at == one ? ones : others);
    }
    return others;
  };
  EXPECT_GE(before_half_of(io::Direction::read), 2);
  EXPECT_GE(before_half_of(io::Direction::write), 12);
  EXPECT_EQ(order.back(), io::Direction::write);
}

TEST_P(NvmeStoreTest, A15NothingLargeIsAllocatedInSteadyState) {
  if (!strata::tests::counts_allocations()) {
    GTEST_SKIP() << "a sanitizer has malloc to itself";
  }
  constexpr std::int64_t kSize = 4 * kMiB;  // 64 units, 128 operations
  NvmeStore store(config(2), {{"a", kSize, 2}});
  const Bytes data(kSize, 1);
  Bytes back(kSize);
  const auto step = [&] {
    store.wait(store.write_next(0, data));
    store.commit(0);
    store.wait(store.read(0, back));
    store.note_step();
  };
  step();
  step();
  strata::tests::start_counting_allocations();
  for (int k = 0; k < 60; ++k) {  // the shares are made anew in between
    step();
  }
  const strata::tests::AllocationCount count = strata::tests::stop_counting_allocations();
  EXPECT_LE(count.ours_largest_bytes, 4096);
  EXPECT_GT(count.ours, 0);  // it does count
}

INSTANTIATE_TEST_SUITE_P(Engines,
                         NvmeStoreTest,
                         testing::Values(Engine::uring, Engine::threads),
                         [](const auto& engine) {
                           return engine.param == Engine::uring ? "uring" : "threads";
                         });

TEST(NvmeStore, RefusesBadSettings) {
  const TempDir dir;
  expect_error(Errc::config, {"path", "got 0"}, [] { NvmeStore({}, {}); });
  NvmeConfig config = small_config(dir, 1);
  config.stripe_bytes = 5000;
  expect_error(Errc::config, {"stripe_bytes", "5000"}, [&] { NvmeStore(config, {}); });
  config = small_config(dir, 1);
  config.paths[0].budget_bytes = 0;
  expect_error(Errc::config, {"budget", "path0"}, [&] { NvmeStore(config, {}); });
  config = small_config(dir, 1);
  expect_error(Errc::internal, {"'odd'", "4096", "5000"}, [&] {
    NvmeStore(config, {{"odd", 5000}});
  });
}

}  // namespace
}  // namespace strata::offload::tests
