#include "checkpoint/manifest.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/errors.h"

namespace strata::checkpoint {
namespace {

using testing::HasSubstr;
using tests::expect_error;

Manifest sound() {
  Manifest manifest;
  manifest.state.step = 3;
  manifest.incarnation = 2;
  manifest.files = {{"d00000_00.safetensors", 4096 + 400'000, 4096, 7, 0}};
  manifest.tensors = {
      {"a", "m", DType::f32, {3}, {{0, 3, 3, 0, 4096, {1}}}},
      {"a",
       "weight",
       DType::f32,
       {100'000},
       {{0, 40'000, 40'000, 0, 4096, {1}}, {40'000, 100'000, 60'000, 0, 164'096, {2}}}}};
  return manifest;
}

TEST(Manifest, EncodesAndDecodes) {
  const Manifest back = decode(encode(sound()), "p");
  EXPECT_EQ(back.state.step, 3);
  EXPECT_EQ(back.incarnation, 2);
  ASSERT_EQ(back.tensors.size(), 2u);
  EXPECT_EQ(back.tensors[1].shards[1].offset, 164'096);
  EXPECT_EQ(back.tensors[1].shards[1].chunk_crcs, std::vector<std::uint32_t>{2});
  EXPECT_EQ(back.files[0].header_crc, 7u);
  EXPECT_EQ(defect(back), std::nullopt);
}

TEST(Manifest, NoCutOrChangedBytesPass) {
  const std::string bytes = encode(sound());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    expect_error(Errc::format, {"'p'"}, [&] { decode(bytes.substr(0, size), "p"); });
  }
  expect_error(Errc::format, {}, [&] { decode(bytes + '\n', "p"); });
}

TEST(Manifest, EveryDefectIsFound) {
  const auto expect_defect = [](std::string_view words,
                                const std::function<void(Manifest&)>& spoil) {
    Manifest manifest = sound();
    spoil(manifest);
    EXPECT_THAT(defect(decode(encode(manifest), "p")).value_or("none"),
                HasSubstr(std::string(words)));
  };
  const auto shard = [](Manifest& m) -> ShardRecord& { return m.tensors[1].shards[1]; };
  expect_defect("stored once", [&](Manifest& m) { shard(m).begin = 39'999; });
  expect_defect("stored once", [&](Manifest& m) { shard(m).begin = 40'001; });
  expect_defect("stored once", [&](Manifest& m) { shard(m).end = 4; });
  expect_defect("99999 are stored", [&](Manifest& m) { shard(m).end = 99'999; });
  expect_defect("0 are stored", [&](Manifest& m) { m.tensors[0].shards.clear(); });
  expect_defect("outside", [&](Manifest& m) { shard(m).file = 1; });
  expect_defect("outside", [&](Manifest& m) { shard(m).file = -1; });
  expect_defect("outside", [&](Manifest& m) { shard(m).offset = 4095; });
  expect_defect("outside", [&](Manifest& m) { shard(m).offset = 164'100; });
  expect_defect("outside", [&](Manifest& m) { shard(m).numel = -1; });
  expect_defect("outside", [&](Manifest& m) { shard(m).numel = std::int64_t{1} << 62; });
  expect_defect("checksums", [&](Manifest& m) { shard(m).chunk_crcs.clear(); });
  expect_defect("impossible", [&](Manifest& m) { m.tensors[0].shape = {-3}; });
  expect_defect("impossible", [&](Manifest& m) {
    m.tensors[0].shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  });
  expect_defect("no data file", [&](Manifest& m) { m.files[0].name = "../d00000_00.safetensors"; });
  expect_defect("no data file", [&](Manifest& m) { m.files[0].size_bytes = 4095; });
  expect_defect("twice", [&](Manifest& m) { m.tensors[1] = m.tensors[0]; });
}

TEST(Manifest, MergeSortsAndRefusesDisagreement) {
  Manifest left, right;
  left.files = {{"d00000_00.safetensors", 5000, 4096, 0, 0}};
  right.files = {{"d00001_00.safetensors", 5000, 4096, 0, 1}};
  right.tensors = {{"b", "weight", DType::u8, {20}, {{0, 8, 8, 0, 4096, {1}}}},
                   {"a", "weight", DType::u8, {1}, {{0, 1, 1, 0, 4104, {1}}}}};
  left.tensors = {{"b", "weight", DType::u8, {20}, {{8, 20, 12, 0, 4096, {1}}}}};
  Manifest all;
  merge(all, left);
  merge(all, right);
  EXPECT_EQ(defect(all), std::nullopt);
  EXPECT_EQ(all.tensors[1].shards[0].file, 1);
  EXPECT_EQ(all.tensors[1].shards[1].file, 0);
  right.tensors[0].dtype = DType::i8;
  expect_error(Errc::internal, {"disagree", "weight:b"}, [&] { merge(all, right); });
}

}  // namespace
}  // namespace strata::checkpoint
