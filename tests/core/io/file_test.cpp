#include "core/io/file.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/support/errors.h"
#include "tests/support/forked.h"
#include "tests/support/temp_dir.h"

namespace strata::io {
namespace {

using tests::expect_error;
using tests::TempDir;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::size_t entries_in(const std::filesystem::path& directory) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(directory), {}));
}

TEST(Crc32c, MatchesThePublishedVectorAndContinues) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283u);
  EXPECT_EQ(crc32c(bytes_of("")), 0u);
  EXPECT_EQ(crc32c(bytes_of("6789"), crc32c(bytes_of("12345"))), 0xE3069283u);
  const std::vector<std::byte> zeros(32);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(zeros), 0x8A9136AAu);
}

TEST(File, WritesAndReadsAtOffsets) {
  const TempDir dir;
  const Fd fd = open_file(dir / "a", Open::create_new);
  write_all(fd, dir / "a", 3, bytes_of("world"));
  write_all(fd, dir / "a", 0, bytes_of("hi "));
  sync_file(fd, dir / "a");
  EXPECT_EQ(file_size(fd, dir / "a"), 8);
  EXPECT_EQ(read_text(dir / "a"), "hi world");
  std::string part(3, '\0');
  read_exact(fd, dir / "a", 5, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, "rld");
}

TEST(File, CreateNewRefusesAnExistingFileAndReadWriteKeepsIt) {
  const TempDir dir;
  write_text(dir / "a", "old");
  expect_error(Errc::io, {"creation", "a'", "File exists"}, [&] {
    const Fd fd = open_file(dir / "a", Open::create_new);
  });
  EXPECT_TRUE(open_file(dir / "a", Open::read_write));
  EXPECT_TRUE(open_file(dir / "b", Open::read_write));
  EXPECT_EQ(read_text(dir / "a"), "old");
}

TEST(File, DirectFilesTakeAlignedTransfers) {
  const TempDir dir;
  const Fd fd = open_file(dir / "a", Open::create_new, Caching::direct);
  std::vector<std::byte> room(3 * 4096);
  void* start = room.data();
  std::size_t left = room.size();
  std::align(4096, 4096, start, left);
  const std::span<std::byte> block(static_cast<std::byte*>(start), 4096);
  std::fill(block.begin(), block.end(), std::byte{7});
  write_all(fd, dir / "a", 4096, block);
  std::fill(block.begin(), block.end(), std::byte{0});
  read_exact(fd, dir / "a", 4096, block);
  EXPECT_EQ(block[4095], std::byte{7});
}

TEST(File, ErrorsNamePathOperationAndReason) {
  const TempDir dir;
  expect_error(
      Errc::io, {"opening", "missing", "No such file"}, [&] { read_text(dir / "missing"); });
  expect_error(
      Errc::io, {"fsync of directory", "Invalid argument"}, [&] { sync_directory("/proc"); });
  expect_error(Errc::io, {"statvfs", "missing"}, [&] { free_bytes(dir / "missing"); });
  write_text(dir / "short", "123");
  const Fd fd = open_file(dir / "short", Open::read);
  std::string text(5, '\0');
  expect_error(Errc::io, {"read of", "short", "2 more bytes at offset 3", "ends there"}, [&] {
    read_exact(fd, dir / "short", 0, std::as_writable_bytes(std::span(text)));
  });
  expect_error(Errc::io, {"write of 1 bytes at offset 9", "short", "Bad file descriptor"}, [&] {
    write_all(fd, dir / "short", 9, bytes_of("x"));
  });
}

TEST(File, AFullDiskSaysHowMuchIsFree) {
  if (::access("/dev/full", W_OK) != 0) {
    GTEST_SKIP() << "needs a writable /dev/full";
  }
  const Fd fd = open_file("/dev/full", Open::read_write);
  expect_error(Errc::io,
               {"write of 1 bytes", "/dev/full", "No space left", "bytes are free", "delete"},
               [&] { write_all(fd, "/dev/full", 0, bytes_of("x")); });
}

using Rename = void (*)(const std::filesystem::path&, const std::filesystem::path&);
class RenameNew : public testing::TestWithParam<Rename> {};

TEST_P(RenameNew, MovesFilesAndDirectoriesAndNeverReplaces) {
  const TempDir dir;
  write_text(dir / "a", "first");
  write_text(dir / "b", "second");
  GetParam()(dir / "a", dir / "c");
  EXPECT_FALSE(exists(dir / "a"));
  EXPECT_EQ(read_text(dir / "c"), "first");
  expect_error(Errc::io, {"b'", "renaming to", "c'", "File exists"}, [&] {
    GetParam()(dir / "b", dir / "c");
  });
  EXPECT_EQ(read_text(dir / "c"), "first");
  EXPECT_EQ(read_text(dir / "b"), "second");

  create_directory(dir / "d");
  create_directory(dir / "empty");
  expect_error(Errc::io, {"File exists"}, [&] { GetParam()(dir / "d", dir / "empty"); });
  GetParam()(dir / "d", dir / "e");
  EXPECT_TRUE(is_directory(dir / "e"));
  expect_error(Errc::io, {"No such file"}, [&] { GetParam()(dir / "d", dir / "f"); });
}
INSTANTIATE_TEST_SUITE_P(Kinds, RenameNew, testing::Values(&rename_new, &rename_new_emulated));

TEST(ReplaceFile, LeavesOldOrNewAndNoRest) {
  const TempDir dir;
  replace_file(dir / "a", "one");
  replace_file(dir / "a", "three");
  EXPECT_EQ(read_text(dir / "a"), "three");
  EXPECT_EQ(entries_in(dir.path()), 1u);
  create_directories(dir / "taken" / "inside");
  expect_error(Errc::io, {"taken"}, [&] { replace_file(dir / "taken", "x"); });
  EXPECT_EQ(entries_in(dir.path()), 2u);
}

TEST(FileLock, ExcludesOtherProcessesAndNamesTheHolder) {
  const TempDir dir;
  const auto try_lock = [&]() -> std::string {
    const FileLock lock(dir / "lock");
    return "got it";
  };
  {
    const FileLock lock(dir / "lock");
    const tests::ChildEnd end = tests::run_forked(
        [&]() -> std::string { return expect_error(Errc::config, {}, [&] { try_lock(); }); });
    EXPECT_NE(end.text.find("process " + std::to_string(::getpid()) + ":"), std::string::npos)
        << end.text;
    EXPECT_NE(end.text.find((dir / "lock").string()), std::string::npos) << end.text;
  }
  EXPECT_EQ(tests::run_forked(try_lock).text, "got it");
}

TEST(FileLock, EndsWithItsProcess) {
  const TempDir dir;
  const tests::ChildEnd end = tests::run_forked([&]() -> std::string {
    const FileLock lock(dir / "lock");
    ::raise(SIGKILL);
    return "";
  });
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_NO_THROW(FileLock(dir / "lock"));
}

TEST(FreeBytes, IsPositiveWhereFilesCanBeWritten) {
  const TempDir dir;
  EXPECT_GT(free_bytes(dir.path()), 0);
}

}  // namespace
}  // namespace strata::io
