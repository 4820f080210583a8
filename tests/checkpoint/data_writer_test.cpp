#include "checkpoint/data_writer.h"

#include <atomic>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/manifest.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::checkpoint {
namespace {

using Engine = io::QueueConfig::Engine;

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::uint32_t x = 1;
  for (std::byte& byte : bytes) {
    x = x * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(x >> 24);
  }
  return bytes;
}

class DataWriterTest : public testing::Test {
 protected:
  OpenFile open(const std::string& name) {
    return {dir_ / name, io::open_file(dir_ / name, io::Open::create_new)};
  }
  tests::TempDir dir_;
};

TEST_F(DataWriterTest, ManyMoreBytesThanBuffersWithOneWriteAtATime) {
  const std::vector<std::byte> data = pattern(20'000'001);
  for (const Engine engine : {Engine::threads, Engine::automatic}) {
    const OpenFile file = open(engine == Engine::threads ? "a" : "b");
    DataWriter writer({.engine = engine, .depth = 1});
    ChunkChecksums checksums;
    std::size_t at = 0;
    for (std::size_t piece = 1; at < data.size(); piece = piece * 5 % 3'000'017) {
      piece = std::min(piece, data.size() - at);
      std::vector<std::byte> borrowed(data.begin() + static_cast<std::ptrdiff_t>(at),
                                      data.begin() + static_cast<std::ptrdiff_t>(at + piece));
      writer.append(file, static_cast<std::int64_t>(at), borrowed, &checksums);
      at += piece;
    }
    writer.drain();
    std::vector<std::byte> back(data.size());
    io::read_exact(file.fd, file.path, 0, back);
    EXPECT_TRUE(back == data);

    const std::vector<std::uint32_t> crcs = checksums.take();
    ASSERT_EQ(crcs.size(), 77u);  // ceil(20000001 / 262144)
    for (std::size_t i = 0; i < crcs.size(); ++i) {
      const std::size_t begin = i * kChunkBytes;
      const std::size_t size = std::min<std::size_t>(kChunkBytes, data.size() - begin);
      EXPECT_EQ(crcs[i], io::crc32c(std::span(data).subspan(begin, size))) << i;
    }
  }
}

TEST_F(DataWriterTest, NeighboursLeaveInOneWriteAndOthersWhereTheyBelong) {
  std::atomic<int> writes = 0;
  DataWriter writer({.fault = [&](const io::Request&, std::int64_t result) {
    ++writes;
    return result;
  }});
  const OpenFile a = open("a2"), b = open("b2");
  const std::vector<std::byte> data = pattern(3000);
  for (std::size_t i = 0; i < 3000; i += 3) {
    writer.append(a, static_cast<std::int64_t>(i), std::span(data).subspan(i, 3));
  }
  writer.append(b, 3000, std::span(data).first(5));
  writer.append(b, 10, std::span(data).first(5));
  writer.drain();
  EXPECT_EQ(writes, 3);
  EXPECT_EQ(io::file_size(a.fd, a.path), 3000);
  EXPECT_EQ(io::file_size(b.fd, b.path), 3005);
}

TEST_F(DataWriterTest, AnErrorComesOutOfDrain) {
  DataWriter writer(
      {.fault = [](const io::Request&, std::int64_t) -> std::int64_t { return -ENOSPC; }});
  const OpenFile file = open("full");
  const std::vector<std::byte> data = pattern(10);
  writer.append(file, 0, data);
  tests::expect_error(Errc::io, {file.path.string(), "No space left"}, [&] { writer.drain(); });
}

}  // namespace
}  // namespace strata::checkpoint
