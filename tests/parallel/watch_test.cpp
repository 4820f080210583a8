#include "parallel/watch.h"

#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "tests/support/errors.h"

namespace strata::parallel {
namespace {

using tests::expect_error;

Watch::Clock::time_point now() {
  return Watch::Clock::now();
}

TEST(Watch, TimeoutNamesAllWhoAreMissing) {
  Watch watch(0, {this_process(), this_process(), this_process()}, 5);
  const std::vector<int> missing{1, 2};
  watch.check("barrier", now(), missing);
  EXPECT_FALSE(watch.is_lost());
  const std::string pid = "pid " + std::to_string(getpid());
  expect_error(Errc::comm,
               {"barrier: rank 0 (host ", "waited 5 s for rank 1 (host ", ", rank 2 (host ", pid},
               [&] { watch.check("barrier", now() - std::chrono::seconds(6), missing); });
  EXPECT_TRUE(watch.is_lost());
}

TEST(Watch, AlarmEndsPeersWithItsCode) {
  Alarm alarm{0};
  const std::vector<Peer> peers(3, this_process());
  Watch one(1, peers, 5), two(2, peers, 5);
  one.use_alarm(&alarm);
  two.use_alarm(&alarm);
  one.raise(75, -1);
  two.raise(7, 0);  // too late: the first counts
  const std::vector<int> missing{0};
  expect_error(Errc::interrupted, {"rank 1 (host ", "ended the run with exit code 75"}, [&] {
    two.check("all_reduce", now(), missing);
  });
}

TEST(Watch, AlarmOfAWaitNamesWhoDidNotCome) {
  Alarm alarm{0};
  const std::vector<Peer> peers(3, this_process());
  Watch zero(0, peers, 1), two(2, peers, 100);
  zero.use_alarm(&alarm);
  two.use_alarm(&alarm);
  const std::vector<int> missing{1};
  EXPECT_THROW(zero.check("barrier", now() - std::chrono::seconds(2), missing), Error);
  expect_error(Errc::comm, {"rank 0 (host ", "gave up waiting for rank 1 (host "}, [&] {
    two.check("barrier", now(), missing);
  });
}

TEST(Watch, EndedProcessIsNoticedBeforeTheTimeout) {
  const pid_t child = fork();
  if (child == 0) {
    _exit(0);
  }
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  Peer peer = this_process();
  peer.pid = child;
  const std::vector<int> missing{1};
  const auto expect_ended = [&] {
    Watch watch(0, {this_process(), peer}, 600);
    expect_error(Errc::comm, {"rank 1 (host ", "whose process has ended"}, [&] {
      watch.check("barrier", now(), missing);
    });
  };
  expect_ended();  // while nobody has asked how it ended
  waitpid(child, nullptr, 0);
  expect_ended();
  peer.boot[0] ^= 1;  // on another machine the number means nothing
  Watch(0, {this_process(), peer}, 600).check("barrier", now(), missing);
}

}  // namespace
}  // namespace strata::parallel
