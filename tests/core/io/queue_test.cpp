#include "core/io/queue.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/io/file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::io {
namespace {

using tests::expect_error;
using tests::TempDir;
using Engine = QueueConfig::Engine;
using Clock = std::chrono::steady_clock;

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>((i * 131 + i / 251 + seed * 17) & 255u);
  }
  return bytes;
}

class QueueTest : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    if (GetParam() == Engine::uring && !uring_available()) {
      GTEST_SKIP() << "the kernel grants no io_uring";
    }
    path_ = (dir_ / "data").string();
    fd_ = open_file(path_, Open::create_new);
  }
  std::unique_ptr<Queue> make(QueueConfig config = {}) {
    config.engine = GetParam();
    return make_queue(std::move(config));
  }
  Request request(Direction direction, std::int64_t offset, std::span<std::byte> bytes) {
    return {direction, fd_.get(), offset, bytes, path_};
  }
  std::vector<std::byte> contents() {
    std::vector<std::byte> bytes(static_cast<std::size_t>(file_size(fd_, path_)));
    read_exact(fd_, path_, 0, bytes);
    return bytes;
  }

  TempDir dir_;
  std::string path_;
  Fd fd_;
};

TEST_P(QueueTest, ManyRequestsWaitedForInAnyOrder) {
  const std::vector<std::byte> source = pattern(300 * 1000, 1);
  std::vector<std::byte> data = source;
  const auto queue = make({.depth = 8, .block_bytes = 4096});
  std::vector<Ticket> tickets;
  for (std::int64_t i = 299; i >= 0; --i) {
    tickets.push_back(
        queue->submit(request(Direction::write,
                              i * 1000,
                              std::span(data).subspan(static_cast<std::size_t>(i) * 1000, 1000))));
  }
  EXPECT_EQ(std::set(tickets.begin(), tickets.end()).size(), 300u);
  for (std::size_t i = 0; i < tickets.size(); i += 2) {
    queue->wait(tickets[tickets.size() - 1 - i]);
  }
  queue->wait_all();
  EXPECT_EQ(contents(), source);

  std::vector<std::byte> back(source.size());
  for (std::size_t i = 0; i < 300; ++i) {
    const std::size_t at = (i * 7 % 300) * 1000;
    queue->submit(
        request(Direction::read, static_cast<std::int64_t>(at), std::span(back).subspan(at, 1000)));
  }
  queue->wait_all();
  EXPECT_EQ(back, source);
  EXPECT_EQ(queue->engine(), GetParam() == Engine::uring ? "io_uring" : "threads");
}

TEST_P(QueueTest, RequestsLargerThanABlockAndDepthOne) {
  std::vector<std::byte> data = pattern(100'001, 2);
  std::atomic<std::int64_t> operations = 0, largest = 0;
  const auto queue = make(
      {.depth = 1, .block_bytes = 1024, .fault = [&](const Request& seen, std::int64_t result) {
         ++operations;
         largest = std::max<std::int64_t>(largest, static_cast<std::int64_t>(seen.bytes.size()));
         return result;
       }});
  queue->wait(queue->submit(request(Direction::write, 5, data)));
  EXPECT_EQ(operations, 98);  // ceil(100001 / 1024)
  EXPECT_EQ(largest, 1024);
  std::vector<std::byte> back(data.size());
  queue->wait(queue->submit(request(Direction::read, 5, back)));
  EXPECT_EQ(back, data);
}

TEST_P(QueueTest, ShortTransfersAreContinuedAndInterruptionsRetried) {
  std::vector<std::byte> data = pattern(20'000, 3);
  std::vector<std::byte> back(data.size());
  std::atomic<int> calls = 0;
  const auto queue = make(
      {.depth = 4,
       .block_bytes = 4096,
       .fault = [&](const Request& seen, std::int64_t result) -> std::int64_t {
         const int call = calls++;
         if (call % 4 == 1) {
           return call % 8 == 1 ? -EINTR : -EAGAIN;
         }
         if (result > 1 && call % 4 == 2) {
           // What a short read did not bring must be read again, not kept by luck.
           const std::int64_t half = result / 2;
           if (seen.direction == Direction::read) {
             std::memset(seen.bytes.data() + half, 0xEE, static_cast<std::size_t>(result - half));
           }
           return half;
         }
         return result;
       }});
  queue->wait(queue->submit(request(Direction::write, 0, data)));
  EXPECT_EQ(contents(), data);
  const int writes = calls;
  queue->wait(queue->submit(request(Direction::read, 0, back)));
  EXPECT_EQ(back, data);
  EXPECT_GT(writes, 5);
  EXPECT_GT(calls, writes + 5);
}

TEST_P(QueueTest, AnErrorBelongsToItsRequest) {
  std::vector<std::byte> data = pattern(8192, 4);
  for (const int error : {ENOSPC, EIO, EDQUOT}) {
    const auto queue = make(
        {.depth = 2, .block_bytes = 1024, .fault = [&](const Request& seen, std::int64_t result) {
           return seen.offset == 3072 ? -error : result;
         }});
    const Ticket bad = queue->submit(request(Direction::write, 0, std::span(data).first(4096)));
    const Ticket good = queue->submit(request(Direction::write, 4096, std::span(data).last(4096)));
    queue->wait(good);
    const std::string text = expect_error(
        Errc::io, {"write of 1024 bytes at offset 3072", path_, std::strerror(error)}, [&] {
          queue->wait(bad);
        });
    EXPECT_EQ(text.find("bytes are free") != std::string::npos, error == ENOSPC) << text;
    EXPECT_NO_THROW(queue->wait_all());
  }
}

TEST_P(QueueTest, WaitAllThrowsTheFirstErrorAndForgetsAll) {
  std::vector<std::byte> data = pattern(4096, 5);
  const auto queue = make({.fault = [](const Request& seen, std::int64_t result) -> std::int64_t {
    return seen.offset == 2048 ? -EIO : seen.offset == 1024 ? -ENOSPC : result;
  }});
  for (std::int64_t at = 0; at < 4096; at += 1024) {
    queue->submit(
        request(Direction::write, at, std::span(data).subspan(static_cast<std::size_t>(at), 1024)));
  }
  expect_error(Errc::io, {"offset 1024", "No space left"}, [&] { queue->wait_all(); });
  EXPECT_NO_THROW(queue->wait_all());
}

TEST_P(QueueTest, RealErrorsOfTheKernelArrive) {
  const Fd reading = open_file(path_, Open::read);
  std::vector<std::byte> data(10);
  const auto queue = make();
  const Ticket ticket = queue->submit({Direction::write, reading.get(), 0, data, path_});
  expect_error(Errc::io, {"write", path_, "Bad file descriptor"}, [&] { queue->wait(ticket); });
}

TEST_P(QueueTest, ReadingPastTheEndIsAnError) {
  std::vector<std::byte> data = pattern(1000, 6);
  write_all(fd_, path_, 0, data);
  std::vector<std::byte> back(1001);
  const auto queue = make();
  const Ticket ticket = queue->submit(request(Direction::read, 0, back));
  expect_error(Errc::io, {"read of", path_, "1 more bytes at offset 1000", "ends there"}, [&] {
    queue->wait(ticket);
  });
  EXPECT_TRUE(std::equal(data.begin(), data.end(), back.begin()));
}

TEST_P(QueueTest, TheDestructorDrains) {
  std::vector<std::byte> data = pattern(1 << 20, 7);
  {
    const auto queue = make({.depth = 2, .block_bytes = 4096});
    queue->submit(request(Direction::write, 0, data));
  }
  EXPECT_EQ(contents(), data);
}

TEST_P(QueueTest, AnErrorIsNotThrownByTheDestructor) {
  std::vector<std::byte> data(100);
  const auto queue =
      make({.fault = [](const Request&, std::int64_t) -> std::int64_t { return -EIO; }});
  queue->submit(request(Direction::write, 0, data));
}

TEST_P(QueueTest, EmptyRequestsAndUsedTickets) {
  const auto queue = make();
  const Ticket ticket = queue->submit(request(Direction::read, 0, {}));
  queue->wait(ticket);
  expect_error(Errc::internal, {"ticket"}, [&] { queue->wait(ticket); });
  expect_error(Errc::internal, {"ticket 99"}, [&] { queue->wait(99); });
}

TEST_P(QueueTest, FinishedRequestsComeOneByOneWithTheirTrouble) {
  std::vector<std::byte> data = pattern(4096, 8);
  for (const bool batched : {false, true}) {
    const auto queue = make({.fault = [](const Request& seen, std::int64_t result) -> std::int64_t {
                               return seen.offset == 1024 ? -EINVAL : result;
                             },
                             .batched = batched});
    std::map<Ticket, std::int64_t> offsets;
    for (std::int64_t at = 0; at < 4096; at += 1024) {
      offsets[queue->submit(request(
          Direction::write, at, std::span(data).subspan(static_cast<std::size_t>(at), 1024)))] = at;
    }
    for (int k = 0; k < 4; ++k) {
      const std::optional<Outcome> outcome = queue->next_finished(Clock::time_point::max());
      ASSERT_TRUE(outcome);
      ASSERT_TRUE(offsets.contains(outcome->ticket));
      const bool bad = offsets[outcome->ticket] == 1024;
      offsets.erase(outcome->ticket);
      EXPECT_EQ(outcome->trouble, bad ? Trouble::refused : Trouble::none);
      EXPECT_EQ(outcome->error_number, bad ? EINVAL : 0);
      EXPECT_EQ(outcome->error != nullptr, bad);
    }
    EXPECT_FALSE(queue->next_finished(Clock::now()));
    EXPECT_NO_THROW(queue->wait_all());
  }
}

TEST_P(QueueTest, WakingEndsTheSleepFromAnotherThread) {
  const auto queue = make();
  for (int k = 0; k < 3; ++k) {
    std::jthread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      queue->wake();
    });
    EXPECT_FALSE(queue->next_finished(Clock::now() + std::chrono::seconds(60)));
  }
  queue->wake();  // before the sleep
  EXPECT_FALSE(queue->next_finished(Clock::now() + std::chrono::seconds(60)));
  const Clock::time_point begin = Clock::now();
  EXPECT_FALSE(queue->next_finished(begin + std::chrono::milliseconds(20)));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(20));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
}

TEST_P(QueueTest, PausesGrowAndBusinessHasALimitButInterruptionsNone) {
  std::vector<std::byte> data = pattern(1024, 9);
  for (const int error : {EAGAIN, EBUSY, EINTR}) {
    std::atomic<int> calls = 0;
    const auto queue = make({.fault = [&](const Request&, std::int64_t result) -> std::int64_t {
                               return calls++ < 40 ? -error : result;
                             },
                             .patience = {.busy_tries = 20,
                                          .first_pause = std::chrono::microseconds(10),
                                          .longest_pause = std::chrono::microseconds(500)}});
    const Clock::time_point begin = Clock::now();
    const Ticket ticket = queue->submit(request(Direction::write, 0, data));
    if (error == EINTR) {
      queue->wait(ticket);
      EXPECT_EQ(calls, 41);
      EXPECT_EQ(queue->counts().retries, 40);
      EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(17));  // 34 of the longest
    } else {
      expect_error(Errc::io, {std::strerror(error)}, [&] { queue->wait(ticket); });
      EXPECT_EQ(calls, 21);
    }
  }
}

TEST_P(QueueTest, DeviceErrorsAreTriedAgainAfterTheirPauses) {
  std::vector<std::byte> data = pattern(1024, 10);
  for (const int failures : {2, 3}) {
    std::atomic<int> calls = 0;
    using std::chrono::milliseconds;
    QueueConfig config;
    config.fault = [&](const Request&, std::int64_t result) -> std::int64_t {
      return calls++ < failures ? -EIO : result;
    };
    config.patience.device_pauses = {milliseconds(1), milliseconds(20)};
    const auto queue = make(config);
    const Clock::time_point begin = Clock::now();
    const Ticket ticket = queue->submit(request(Direction::write, 0, data));
    if (failures == 2) {
      queue->wait(ticket);
    } else {
      expect_error(Errc::io, {"Input/output error"}, [&] { queue->wait(ticket); });
    }
    EXPECT_EQ(calls, 3);
    EXPECT_GE(Clock::now() - begin, milliseconds(21));
  }
}

TEST_P(QueueTest, ShortTransfersGoOnAtTheAlignment) {
  std::vector<std::byte> data = pattern(8192, 11);
  std::vector<std::int64_t> offsets;
  const auto queue =
      make({.fault = [&](const Request& seen, std::int64_t) -> std::int64_t {
              offsets.push_back(seen.offset);
              return std::min<std::int64_t>(1500, static_cast<std::int64_t>(seen.bytes.size()));
            },
            .patience = {.alignment = 512}});
  const Ticket ticket = queue->submit(request(Direction::write, 0, std::span(data).first(2048)));
  queue->wait(ticket);
  EXPECT_EQ(offsets, (std::vector<std::int64_t>{0, 1024}));
  EXPECT_EQ(queue->counts().short_transfers, 1);
}

TEST_P(QueueTest, NoProgressAndNoAnswerAreErrorsOfTheRequest) {
  std::vector<std::byte> data = pattern(8192, 12);
  std::atomic<int> calls = 0;
  const auto queue = make(
      {.fault = [&](const Request& seen, std::int64_t result) -> std::int64_t {
         if (seen.offset == 0) {
           ++calls;
           return 511;
         }
         return seen.offset == 4096 ? kNoAnswer : result;
       },
       .patience = {.alignment = 512, .idle_tries = 5, .timeout = std::chrono::milliseconds(30)}});
  const Ticket idle = queue->submit(request(Direction::write, 0, std::span(data).first(1024)));
  const Ticket silent = queue->submit(request(Direction::write, 4096, std::span(data).last(1024)));
  const Ticket good = queue->submit(request(Direction::write, 1024, std::span(data).first(1024)));
  expect_error(Errc::io, {"no further in 5 tries", "512"}, [&] { queue->wait(idle); });
  EXPECT_EQ(calls, 5);
  queue->wait(good);
  expect_error(Errc::io, {"offset 4096", "no answer for 30 ms"}, [&] { queue->wait(silent); });
  EXPECT_NO_THROW(queue->wait_all());
}

TEST_P(QueueTest, WhatHangsInTheKernelIsGivenUp) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd reading(ends[0]), writing(ends[1]);
  std::vector<std::byte> data(100);
  {
    const auto queue = make({.depth = 1, .patience = {.timeout = std::chrono::milliseconds(30)}});
    const Ticket hung = queue->submit({Direction::read, reading.get(), -1, data, "a pipe"});
    if (GetParam() == Engine::threads) {  // pread refuses the offset that means a stream
      expect_error(Errc::io, {"a pipe", "Invalid argument"}, [&] { queue->wait(hung); });
    } else {
      expect_error(Errc::io, {"a pipe", "no answer"}, [&] { queue->wait(hung); });
    }
    std::vector<std::byte> more = pattern(100, 3);
    queue->wait(queue->submit(request(Direction::write, 0, more)));
    EXPECT_EQ(contents(), more);
  }
}

TEST_P(QueueTest, RegisteredBuffersAndFilesMoveTheSameBytes) {
  std::vector<std::byte> data = pattern(100'000, 13), back(100'000), other(100'000);
  QueueConfig config;
  config.block_bytes = 8192;
  config.buffers = {data, back};
  config.files = {fd_.get()};
  const auto queue = make(config);
  EXPECT_EQ(queue->buffers_refused(), "");
  queue->wait(queue->submit(request(Direction::write, 0, data)));
  queue->submit(request(Direction::read, 0, back));
  queue->submit(request(Direction::read, 0, other));  // not registered
  queue->wait_all();
  EXPECT_EQ(back, data);
  EXPECT_EQ(other, data);
}

TEST_P(QueueTest, ManyWaitForFewSlotsInBatches) {
  std::vector<std::byte> data = pattern(1 << 20, 14), back(1 << 20);
  const auto queue = make({.depth = 3, .block_bytes = 4096, .batched = true});
  queue->submit(request(Direction::write, 0, data));
  ASSERT_TRUE(queue->next_finished(Clock::time_point::max()));
  for (std::size_t at = 0; at < data.size(); at += 65536) {
    queue->submit(request(
        Direction::read, static_cast<std::int64_t>(at), std::span(back).subspan(at, 65536)));
  }
  for (int k = 0; k < 16; ++k) {
    ASSERT_TRUE(queue->next_finished(Clock::time_point::max()));
  }
  EXPECT_EQ(back, data);
}

INSTANTIATE_TEST_SUITE_P(Engines,
                         QueueTest,
                         testing::Values(Engine::uring, Engine::threads),
                         [](const auto& engine) {
                           return engine.param == Engine::uring ? "uring" : "threads";
                         });

TEST(MakeQueue, ChecksItsSettings) {
  expect_error(Errc::config, {"depth", "got 0"}, [] { make_queue({.depth = 0}); });
  expect_error(Errc::config, {"block_bytes", "got 0"}, [] { make_queue({.block_bytes = 0}); });
  EXPECT_EQ(make_queue()->engine(), uring_available() ? "io_uring" : "threads");
  EXPECT_EQ(make_queue({.engine = Engine::threads})->engine(), "threads");
  if (!uring_available()) {
    expect_error(Errc::config, {"threads"}, [] { make_queue({.engine = Engine::uring}); });
  }
}

}  // namespace
}  // namespace strata::io
