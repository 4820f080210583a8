#include <algorithm>
#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "core/io/file.h"
#include "parallel/self_communicator.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using tests::expect_error;
using tests::RankState;
using tests::run_state;
using tests::TempDir;

class DamageTest : public testing::Test {
 protected:
  void SetUp() override {
    RankState state(0, 1);
    Writer writer({.root = root_, .file_bytes = 300'000}, state.dict, self_);
    older_ = state.save(writer, run_state(1));
    newer_ = state.save(writer, run_state(2));
  }
  static bool intact(const fs::path& directory) {
    try {
      const Reader reader(directory);
      reader.verify();
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::format) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(directory.string()));
      return false;
    }
  }
  static void flip(const fs::path& path, std::int64_t bit) {
    const io::Fd fd = io::open_file(path, io::Open::read_write);
    std::byte byte{};
    io::read_exact(fd, path, bit / 8, {&byte, 1});
    byte ^= std::byte{1} << (bit % 8);
    io::write_all(fd, path, bit / 8, {&byte, 1});
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const std::string& name : tests::names_in(newer_)) {
      paths.push_back(newer_ / name);
    }
    return paths;
  }

  TempDir dir_;
  fs::path root_ = dir_ / "ckpt", older_, newer_;
  parallel::SelfCommunicator self_;
};

TEST_F(DamageTest, EveryFlippedBitIsNoticed) {
  std::mt19937 random(1);
  for (const fs::path& path : files()) {
    const auto bits = static_cast<std::int64_t>(fs::file_size(path)) * 8;
    std::vector<std::int64_t> positions = {0, bits - 1};
    for (const std::int64_t from_end : {8, 12, 20}) {
      positions.push_back(std::max<std::int64_t>(0, bits - from_end * 8));
    }
    while (positions.size() < 60) {
      positions.push_back(static_cast<std::int64_t>(random()) % bits);
    }
    for (const std::int64_t bit : positions) {
      flip(path, bit);
      EXPECT_FALSE(intact(newer_)) << path << " bit " << bit;
      flip(path, bit);
    }
  }
  EXPECT_TRUE(intact(newer_));
}

TEST_F(DamageTest, EveryBitOfTheManifestIsNoticedAtOnce) {
  const fs::path path = newer_ / "MANIFEST.pb";
  const auto bits = static_cast<std::int64_t>(fs::file_size(path)) * 8;
  for (std::int64_t bit = 0; bit < bits; bit += 13) {
    flip(path, bit);
    expect_error(Errc::format, {path.string()}, [&] { Reader reader(newer_); });
    flip(path, bit);
  }
}

TEST_F(DamageTest, TruncatedGrownAndDeletedFilesFallBackToTheOlderCheckpoint) {
  EXPECT_EQ(newest(root_, {}), newer_);
  for (const fs::path& path : files()) {
    const std::string whole = io::read_text(path);
    const auto with = [&](const std::string& bytes) {
      std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    };
    const auto expect_fallback = [&](const std::string& what) {
      std::vector<std::string> warnings;
      EXPECT_EQ(newest(root_, [&](const std::string& text) { warnings.push_back(text); }), older_)
          << path << what;
      ASSERT_EQ(warnings.size(), 1u);
      EXPECT_THAT(warnings[0], HasSubstr(path.string())) << what;
    };
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
      with(whole.substr(0, size));
      expect_fallback(" truncated");
    }
    with(whole + "x");
    expect_fallback(" grown");
    with(whole);
    EXPECT_EQ(newest(root_, {}), newer_);
  }
  for (const fs::path& path : files()) {
    fs::rename(path, dir_ / "away");
    EXPECT_EQ(newest(root_, {}), older_) << path;
    fs::rename(dir_ / "away", path);
  }
}

TEST_F(DamageTest, AnAttachedFileChangedOrMissingIsNoticed) {
  const fs::path path = newer_ / "config.json";
  std::ofstream(path) << "{\"a\": 2}";
  expect_error(Errc::format, {"config.json", "checksum"}, [&] { Reader reader(newer_); });
  fs::remove(path);
  expect_error(Errc::format, {"config.json", "missing"}, [&] { Reader reader(newer_); });
}

TEST_F(DamageTest, AMissingDataFileIsNamedWithATensorInIt) {
  fs::remove(newer_ / "d00000_00.safetensors");
  expect_error(
      Errc::format, {"d00000_00.safetensors", "wte.weight"}, [&] { Reader reader(newer_); });
}

TEST_F(DamageTest, ADamagedChunkNamesFileAndTensorAndSparesTheOthers) {
  const Reader reader(newer_);
  const fs::path path = newer_ / "d00000_00.safetensors";
  flip(path, static_cast<std::int64_t>(fs::file_size(path)) * 8 - 1);
  std::vector<std::byte> value(4);
  EXPECT_NO_THROW(reader.read("wte.weight", "weight", 0, value));
  expect_error(Errc::format, {path.string(), "'m:wte.weight'", "checksum"}, [&] {
    reader.read("wte.weight", "m", 0, value);
  });
}

TEST_F(DamageTest, FilesOfAnotherCheckpointAreNoticed) {
  for (const fs::path& path : files()) {
    if (path.extension() == ".safetensors") {
      const std::string own = io::read_text(path);
      fs::copy_file(older_ / path.filename(), path, fs::copy_options::overwrite_existing);
      EXPECT_FALSE(intact(newer_)) << path;
      std::ofstream(path, std::ios::binary | std::ios::trunc) << own;
    }
  }
  EXPECT_TRUE(intact(newer_));
}

TEST_F(DamageTest, AllDamagedIsAnErrorThatNamesEveryOne) {
  fs::remove(newer_ / "MANIFEST.pb");
  fs::remove(older_ / "MANIFEST.pb");
  expect_error(Errc::format, {newer_.string(), older_.string(), "run.dir"}, [&] {
    newest(root_, [](const std::string& text) { ADD_FAILURE() << text; });
  });
}

TEST_F(DamageTest, ADamagedValueIsFoundByALookAtEveryByte) {
  const fs::path path = newer_ / "d00000_00.safetensors";
  flip(path, static_cast<std::int64_t>(fs::file_size(path)) * 8 - 1);
  EXPECT_EQ(newest(root_, {}), newer_);
  EXPECT_EQ(newest(root_, {}, Check::every_byte), older_);
}

}  // namespace
}  // namespace strata::checkpoint
