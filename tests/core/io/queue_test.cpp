#include "core/io/queue.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/io/file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::io {
namespace {

using tests::expect_error;
using tests::TempDir;
using Engine = QueueConfig::Engine;

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
