// What the kernel may answer, each kind at the first, a middle and the last piece of a transfer.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "offload/nvme_store.h"
#include "tests/offload/nvme_rig.h"
#include "tests/support/errors.h"

namespace strata::offload::tests {
namespace {

using strata::tests::expect_error;
using Engine = io::QueueConfig::Engine;
using io::Direction;

constexpr std::int64_t kSize = 352 * kKiB;  // 11 operations of 32 KiB
constexpr std::int64_t kOperation = 32 * kKiB;
constexpr std::int64_t kPlaces[] = {0, 5 * kOperation, 10 * kOperation};

struct Kind {
  std::string name;
  std::function<std::int64_t(const io::Request&, std::int64_t)> answer;
  int times;               // operations that get it; -1: all at that place
  std::string read_error;  // what the message of one path's store says; empty: it goes well
  std::string write_error;
};

constexpr int kEver = -1;

std::function<std::int64_t(const io::Request&, std::int64_t)> says(std::int64_t result) {
  return [result](const io::Request&, std::int64_t) { return result; };
}

std::int64_t flipped(const io::Request& request, std::int64_t result) {
  if (request.direction == Direction::read) {
    request.bytes[100] ^= std::byte{4};
  }
  return result;
}

/// Half of it; what did not come is not there by luck either.
std::int64_t half(const io::Request& request, std::int64_t result) {
  const std::int64_t kept = result / 2 + 100;
  if (request.direction == Direction::read && kept < result) {
    std::memset(request.bytes.data() + kept, 0xEE, static_cast<std::size_t>(result - kept));
  }
  return std::min(kept, result);
}

std::int64_t late(const io::Request&, std::int64_t result) {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return result;
}

std::vector<Kind> kinds() {
  const std::string lost = "data lost: state of block 3", nowhere = "has no place";
  return {
      {"short", half, 1, "", ""},
      {"nothing", says(0), kEver, "the file ends there", "is full"},
      {"EINTR", says(-EINTR), 9, "", ""},
      {"EAGAIN", says(-EAGAIN), 9, "", ""},
      {"EBUSY", says(-EBUSY), 9, "", ""},
      {"EINVAL", says(-EINVAL), 1, "", ""},
      {"EINVAL ever", says(-EINVAL), kEver, "Invalid argument", "Invalid argument"},
      {"ENOSPC", says(-ENOSPC), 1, "No space left", "is full"},
      {"EDQUOT", says(-EDQUOT), 1, "quota", "is full"},
      {"EIO thrice", says(-EIO), 3, "", ""},
      {"EIO", says(-EIO), kEver, lost, nowhere},
      {"ENODEV", says(-ENODEV), kEver, lost, nowhere},
      {"EREMOTEIO", says(-EREMOTEIO), kEver, lost, nowhere},
      {"EPERM", says(-EPERM), kEver, "Operation not permitted", "Operation not permitted"},
      {"flip", flipped, 2, "", ""},
      {"flip ever", flipped, kEver, lost, ""},
      {"late", late, 2, "", ""},
      {"silent", says(io::kNoAnswer), 1, "no answer for 60 ms", "no answer for 60 ms"},
  };
}

class NvmeFaults : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    if (GetParam() == Engine::uring && !io::uring_available()) {
      GTEST_SKIP() << "the kernel grants no io_uring";
    }
  }
  /// A machine that is busy with other things answers late.
  NvmeConfig config(int paths, std::chrono::milliseconds patience = std::chrono::seconds(30)) {
    NvmeConfig made = small_config(dir_, paths, GetParam());
    made.timeout = patience;
    made.warn = [](std::string_view) {};
    made.fault = [this](const io::Request& request, std::int64_t result) {
      return armed_ && !request.bytes.empty() ? answer_(request, result) : result;
    };
    return made;
  }
  void arm(std::function<std::int64_t(const io::Request&, std::int64_t)> answer) {
    answer_ = std::move(answer);
    armed_ = true;
  }
  /// The kind at one place of one direction.
  void arm(const Kind& kind, Direction direction, std::int64_t place) {
    arm([kind, direction, place, left = kind.times](const io::Request& request,
                                                    std::int64_t result) mutable {
      const bool here = request.offset <= place &&
                        place < request.offset + static_cast<std::int64_t>(request.bytes.size());
      if (!here || request.direction != direction || left == 0) {
        return result;
      }
      left -= left > 0 ? 1 : 0;
      return kind.answer(request, result);
    });
  }
  void disarm() { armed_ = false; }
  TempDir dir_;
  std::function<std::int64_t(const io::Request&, std::int64_t)> answer_;
  std::atomic<bool> armed_ = false;
};

TEST_P(NvmeFaults, A8EveryKindEverywhereEndsAsDocumented) {
  const std::size_t descriptors = open_descriptors(), threads = living_threads();
  const Bytes first(kSize, 1), second(kSize, 2);
  for (const Kind& kind : kinds()) {
    for (const Direction direction : {Direction::read, Direction::write}) {
      for (const std::int64_t place : kPlaces) {
        SCOPED_TRACE(kind.name + (direction == Direction::read ? " read " : " write ") +
                     std::to_string(place));
        const auto begin = std::chrono::steady_clock::now();
        {
          const std::chrono::milliseconds patience(kind.name == "silent" ? 60 : 30'000);
          NvmeStore store(config(1, patience), {{"state of block 3", kSize}});
          write(store, 0, first);
          const bool reading = direction == Direction::read;
          const std::string& expected = reading ? kind.read_error : kind.write_error;
          arm(kind, direction, place);
          const auto act = [&] {
            if (reading) {
              EXPECT_TRUE(read(store, 0, kSize) == first);
            } else {
              write(store, 0, second);
            }
          };
          if (expected.empty()) {
            act();
          } else {
            const std::string text = expect_error(Errc::io, {expected, "path0"}, act);
            EXPECT_EQ(text.find('\n'), std::string::npos);
          }
          disarm();
          if (!reading && expected.empty()) {
            EXPECT_TRUE(read(store, 0, kSize) == second);
          }
          if (!reading && !expected.empty()) {  // half of each generation is no data
            expect_error(
                Errc::io, {"data lost", "state of block 3"}, [&] { read(store, 0, kSize); });
          }
        }
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
        EXPECT_EQ(entries_of(dir_ / "path0"), 0u);
      }
    }
  }
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_TRUE(threads_come_down_to(threads));
}

TEST_P(NvmeFaults, A8AStoreGoesOnAfterWhatPassed) {
  NvmeStore store(config(1, std::chrono::milliseconds(500)), {{"a", kSize}, {"b", kSize}});
  const Bytes a(kSize, 1), b(kSize, 2), again(kSize, 3);
  write(store, 0, a);
  write(store, 1, b);
  arm([](const io::Request& request, std::int64_t result) {
    return request.offset == 0 ? io::kNoAnswer : result;
  });
  Bytes back(kSize);
  const NvmeStore::Ticket silent = store.read(0, back);
  EXPECT_TRUE(read(store, 1, kSize) == b);
  expect_error(Errc::io, {"nvme: a:", "no answer"}, [&] { store.wait(silent); });
  disarm();
  EXPECT_TRUE(read(store, 0, kSize) == a);
  write(store, 0, again);
  EXPECT_TRUE(read(store, 0, kSize) == again);
  EXPECT_FALSE(store.counters(0).failed);
}

TEST_P(NvmeFaults, A19WritesOfAPathThatDiesMoveAndItsDataAreNamed) {
  for (const int error : {EIO, ENOSPC}) {
    SCOPED_TRACE(std::strerror(error));
    NvmeStore store(config(3), {{"state of block 0", kSize}, {"state of block 1", kSize, 2}});
    const Bytes first(kSize, 1), second(kSize, 2), third(kSize, 3);
    write(store, 0, first);
    write(store, 1, second);
    arm([error](const io::Request& request, std::int64_t result) -> std::int64_t {
      return request.path.find("path1") != std::string::npos ? -error : result;
    });
    store.wait(store.write_next(1, third));  // it was on all paths, and is on two
    store.commit(1);
    if (error == ENOSPC) {
      disarm();  // a full path still reads
    }
    EXPECT_TRUE(read(store, 1, kSize) == third);
    if (error == EIO) {
      const std::string text = expect_error(
          Errc::io, {"data lost: state of block 0:", "path1", "Input/output error"}, [&] {
            read(store, 0, kSize);
          });
      EXPECT_EQ(text.find("block 1"), std::string::npos) << text;
    } else {
      EXPECT_TRUE(read(store, 0, kSize) == first);
    }
    write(store, 0, second);
    EXPECT_TRUE(read(store, 0, kSize) == second);
    EXPECT_EQ(store.counters(1).failed, error == EIO);
    disarm();
  }
}

TEST_P(NvmeFaults, A8WithoutRoomElsewhereTheErrorSaysHowMuchThereIs) {
  NvmeConfig tight = config(2);
  tight.paths[0].budget_bytes = tight.paths[1].budget_bytes = kSize / 2 + 64 * kKiB;
  NvmeStore store(tight, {{"state of block 3", kSize}});
  arm([](const io::Request& request, std::int64_t result) -> std::int64_t {
    return request.path.find("path1") != std::string::npos ? -EIO : result;
  });
  const Bytes data(kSize, 1);
  expect_error(Errc::io, {"state of block 3", "has no place", "path1", "bytes are free"}, [&] {
    write(store, 0, data);
  });
}

/// Operations of 32 KiB by where they began, while every answer is cut by `cut`.
std::map<std::int64_t, int> count_by_block(
    NvmeStore& store,
    const std::function<void(std::function<std::int64_t(const io::Request&, std::int64_t)>)>& arm,
    const std::function<std::int64_t(std::int64_t block, std::int64_t size)>& cut) {
  auto counts = std::make_shared<std::map<std::int64_t, int>>();
  arm([counts, cut](const io::Request& request, std::int64_t result) {
    const std::int64_t block =
        request.offset / kOperation + (request.direction == Direction::read ? 0 : 1000);
    ++(*counts)[block];
    const std::int64_t kept = std::min(result, cut(block, result));
    if (request.direction == Direction::read && kept < result) {
      std::memset(request.bytes.data() + kept, 0xEE, static_cast<std::size_t>(result - kept));
    }
    return kept;
  });
  const Bytes data(kSize, 9);
  write(store, 0, data);
  EXPECT_TRUE(read(store, 0, kSize) == data);
  return *counts;
}

TEST_P(NvmeFaults, A9ShortTransfersOfEveryLength) {
  std::minstd_rand random(7);
  const auto between = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution(low, high)(random);
  };
  const auto arming = [&](auto answer) { arm(std::move(answer)); };
  NvmeStore store(config(1), {{"a", kSize}});
  const auto cut = [&](std::int64_t, std::int64_t size) {
    return between(4096, std::max<std::int64_t>(4096, size));
  };
  for (const auto& [block, operations] : count_by_block(store, arming, cut)) {
    EXPECT_LE(operations, kOperation / 4096) << block;
  }
  const std::int64_t shorts = store.counters(0).short_io;
  EXPECT_GT(shorts, 11);

  // One to three answers in a row that bring nothing, then one that does.
  std::map<std::int64_t, std::int64_t> idle;
  int idle_sum = 0;
  const auto cut_idle = [&](std::int64_t block, std::int64_t size) {
    std::int64_t& left = idle.try_emplace(block, between(1, 3)).first->second;
    if (left == 0) {
      left = between(1, 3);
      return cut(block, size);
    }
    --left;
    ++idle_sum;
    return between(1, 4095);
  };
  int all = 0;
  for (const auto& [block, operations] : count_by_block(store, arming, cut_idle)) {
    all += operations;
  }
  EXPECT_LE(all, 2 * kSize / 4096 + idle_sum);
}

TEST_P(NvmeFaults, A9NothingButNothingIsAnErrorAfterEightTries) {
  for (const Direction direction : {Direction::write, Direction::read}) {
    NvmeStore store(config(1), {{"a", kSize}});
    const Bytes data(kSize, 1);
    write(store, 0, data);
    int tries = 0;
    arm([&](const io::Request& request, std::int64_t result) {
      if (request.direction != direction || request.offset != 3 * kOperation) {
        return result;
      }
      ++tries;
      return std::int64_t{4095};
    });
    expect_error(Errc::io, {"nvme: a:", "no further in 8 tries", "4096"}, [&] {
      direction == Direction::read ? static_cast<void>(read(store, 0, kSize))
                                   : write(store, 0, data);
    });
    EXPECT_EQ(tries, 8);
    disarm();
  }
}

INSTANTIATE_TEST_SUITE_P(Engines,
                         NvmeFaults,
                         testing::Values(Engine::uring, Engine::threads),
                         [](const auto& engine) {
                           return engine.param == Engine::uring ? "uring" : "threads";
                         });

}  // namespace
}  // namespace strata::offload::tests
