#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/kill_points.h"
#include "core/kill_point.h"
#include "parallel/self_communicator.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/support/errors.h"
#include "tests/support/forked.h"
#include "tests/support/local_ranks.h"
#include "tests/support/temp_dir.h"

namespace strata::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using tests::expect_error;
using tests::expect_saved;
using tests::names_in;
using tests::RankState;
using tests::run_state;
using tests::TempDir;

class FailedSaveTest : public testing::Test {
 protected:
  TempDir dir_;
  fs::path root_ = dir_ / "ckpt";
  parallel::SelfCommunicator self_;
  RankState state_{0, 1};
};

TEST_F(FailedSaveTest, AnErrorAtAnyWriteLeavesEarlierCheckpointsAsTheyWere) {
  std::atomic<int> countdown = -1;
  std::atomic<int> error = 0;
  WriterConfig config{.root = root_, .file_bytes = 300'000};
  config.queue.block_bytes = 64 << 10;
  config.queue.fault = [&](const io::Request&, std::int64_t result) -> std::int64_t {
    return countdown-- == 0 ? -error : result;
  };
  Writer writer(config, state_.dict, self_);
  const fs::path first = state_.save(writer, run_state(1));
  int operation = 0;
  for (bool failed = true; failed; ++operation) {
    error = std::array{ENOSPC, EIO, EDQUOT}[static_cast<std::size_t>(operation % 3)];
    countdown = operation;
    failed = false;
    try {
      state_.save(writer, run_state(2));
    } catch (const Error& thrown) {
      failed = true;
      EXPECT_EQ(thrown.code(), Errc::io);
      EXPECT_THAT(thrown.what(), testing::HasSubstr(std::strerror(error)));
      ASSERT_THAT(names_in(root_), ElementsAre("s000000000001-i0001")) << operation;
    }
  }
  EXPECT_GT(operation, 15);
  expect_saved(first, 1);
  expect_saved(*newest(root_, {}), 2);
}

TEST_F(FailedSaveTest, InterruptedAndShortWritesDoNotMatter) {
  std::atomic<int> calls = 0;
  WriterConfig config{.root = root_};
  config.queue.fault = [&](const io::Request&, std::int64_t result) -> std::int64_t {
    switch (calls++ % 4) {
      case 0:
        return -EINTR;
      case 1:
        return -EAGAIN;
      case 2:
        return result > 1 ? result / 2 : result;
      default:
        return result;
    }
  };
  Writer writer(config, state_.dict, self_);
  expect_saved(state_.save(writer, run_state(1)), 1);
}

TEST_F(FailedSaveTest, OneRankThatCannotWriteStopsAllAndSaysWhich) {
  tests::LocalRanks(3).run([&](Communicator& ranks) {
    RankState mine(ranks.rank(), 3);
    std::atomic<bool> full = false;
    WriterConfig config{.root = root_};
    config.queue.fault = [&](const io::Request&, std::int64_t result) -> std::int64_t {
      return full ? -ENOSPC : result;
    };
    Writer writer(config, mine.dict, ranks);
    mine.save(writer, run_state(1));
    full = ranks.rank() == 1;
    const std::string text =
        expect_error(Errc::io, {"No space left"}, [&] { mine.save(writer, run_state(2)); });
    EXPECT_EQ(text.find("rank 1") == std::string::npos, ranks.rank() == 1) << text;
    ranks.barrier();
    if (ranks.rank() == 0) {
      EXPECT_THAT(names_in(root_), ElementsAre("s000000000001-i0001"));
    }
    ranks.barrier();
    full = false;
    mine.save(writer, run_state(3));
  });
  expect_saved(root_ / "s000000000001-i0001", 1);
  expect_saved(*newest(root_, {}), 3);
}

TEST_F(FailedSaveTest, TooLittleRoomIsSaidBeforeAnythingIsWritten) {
  StateDict dict = state_.dict;
  dict[0].shape = {std::int64_t{1} << 55};
  dict[0].end = dict[0].numel = std::int64_t{1} << 55;
  Writer writer({.root = root_}, dict, self_);
  expect_error(Errc::io, {"step 5", "needs 1441", root_.string(), "are free", "run.dir"}, [&] {
    writer.begin(run_state(5));
  });
  EXPECT_THAT(names_in(root_), ElementsAre());
}

TEST_F(FailedSaveTest, ARealFullDiskLeavesThePreviousCheckpoint) {
  const TempDir mount;
  const auto end = tests::run_on_small_disk(mount, 4 << 20, [&]() -> std::string {
    Writer writer({.root = mount / "ckpt"}, state_.dict, self_);
    state_.save(writer, run_state(1));
    state_.fill(2);
    writer.begin(run_state(2));
    {
      std::ofstream hog(mount / "hog", std::ios::binary);
      hog << std::string(8 << 20, 'x');
    }
    for (int block = 0; block < 3; ++block) {
      state_.snapshot(writer, block);
    }
    std::string text = expect_error(Errc::io, {}, [&] { writer.commit(); });
    expect_saved(mount / "ckpt" / "s000000000001-i0001", 1);
    text += expect_error(Errc::io, {}, [&] { writer.begin(run_state(3)); });
    return text + (names_in(mount / "ckpt").size() == 1 && !testing::Test::HasFailure()
                       ? " all well"
                       : " something is wrong");
  });
  if (!end) {
    GTEST_SKIP() << "needs CAP_SYS_ADMIN or user namespaces to mount a tmpfs";
  }
  EXPECT_EQ(end->exit_code, 0) << end->text;
  EXPECT_THAT(end->text, testing::HasSubstr("No space left on device; 0 bytes are free"));
  EXPECT_THAT(end->text, testing::HasSubstr("step 3 needs"));
  EXPECT_THAT(end->text, testing::HasSubstr("all well"));
}

class KillTest : public FailedSaveTest, public testing::WithParamInterface<std::string_view> {};

TEST_P(KillTest, LeavesTheOldOrTheNewCheckpointAndTheNextRunGoesOn) {
  const tests::ChildEnd end = tests::run_forked([&]() -> std::string {
    Writer writer({.root = root_, .keep_last = 1}, state_.dict, self_);
    state_.save(writer, run_state(1));
    arm_kill_point(GetParam());
    state_.save(writer, run_state(2));
    return "lived on";
  });
  ASSERT_EQ(end.signal, SIGKILL) << GetParam() << ": " << end.text;
  const auto found = newest(root_, [](const std::string& text) { ADD_FAILURE() << text; });
  ASSERT_TRUE(found);
  const bool past_commit =
      GetParam() == kKillRenamed || GetParam() == kKillCommitted || GetParam() == kKillTrashed;
  expect_saved(*found, past_commit ? 2 : 1);

  Writer writer({.root = root_, .keep_last = 2}, state_.dict, self_);
  for (const std::string& name : names_in(root_)) {
    EXPECT_NE(name[0], '.') << name;
    expect_saved(root_ / name, std::stoll(name.substr(1)));
  }
  expect_saved(state_.save(writer, run_state(2)), 2);
  expect_saved(*newest(root_, {}), 2);
}

INSTANTIATE_TEST_SUITE_P(Points, KillTest, testing::ValuesIn(kKillPoints), [](const auto& point) {
  std::string name(point.param);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

}  // namespace
}  // namespace strata::checkpoint
