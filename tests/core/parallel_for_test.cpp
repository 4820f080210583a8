#include "core/parallel_for.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/run_self.h"

namespace strata {
namespace {

class ParallelFor : public testing::TestWithParam<int> {
 protected:
  ParallelFor() : before_(thread_count()) { set_thread_count(GetParam()); }
  ~ParallelFor() override { set_thread_count(before_); }

 private:
  int before_;
};

TEST_P(ParallelFor, CoversTheRangeOnceInChunksOfTheGrain) {
  for (const std::int64_t n : {0, 1, 7, 64, 65, 1000}) {
    for (const std::int64_t grain : {1, 8, 64, 5000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
      std::atomic<bool> aligned{true};
      parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
        aligned = aligned && begin % grain == 0 && (end % grain == 0 || end == n) && begin < end;
        for (std::int64_t i = begin; i < end; ++i) {
          ++seen[static_cast<std::size_t>(i)];
        }
      });
      EXPECT_TRUE(aligned) << n << " by " << grain;
      for (const auto& count : seen) {
        ASSERT_EQ(count, 1) << n << " by " << grain;
      }
    }
  }
}

TEST_P(ParallelFor, RethrowsTheErrorOfAChunk) {
  const auto run = [] {
    parallel_for(100, 1, [](std::int64_t begin, std::int64_t end) {
      if (begin <= 37 && 37 < end) {
        throw Error(Errc::numerics, "chunk of 37");
      }
    });
  };
  try {
    run();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::numerics);
  }
  EXPECT_THROW(run(), Error);  // and the team still works
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, testing::Values(1, 2, 3, 8));

TEST(ThreadCount, UsesAllThreadsAndNoMore) {
  const int before = thread_count();
  set_thread_count(3);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int> arrived{0};
  // Three chunks that wait for each other need three threads.
  parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
    {
      const std::scoped_lock lock(mutex);
      ids.insert(std::this_thread::get_id());
    }
    for (++arrived; arrived < 3;) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(ids.size(), 3u);
  set_thread_count(before);
  EXPECT_THROW(set_thread_count(0), Error);
}

TEST(ThreadCount, DefaultComesFromTheEnvironment) {
  const char* count = std::getenv("OMP_NUM_THREADS");
  if (count != nullptr && std::string(count) == "5,2") {
    EXPECT_EQ(thread_count(), 5);
    return;
  }
  EXPECT_EQ(
      tests::run_self("ThreadCount.DefaultComesFromTheEnvironment", {{"OMP_NUM_THREADS", "5,2"}}),
      0);
}

}  // namespace
}  // namespace strata
