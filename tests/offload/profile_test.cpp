#include "offload/profile.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/temp_dir.h"

namespace strata::offload {
namespace {

using ::testing::HasSubstr;

HardwareProfile example() {
  return {.machine = "a machine",
          .gemm_f32 = 1e11,
          .gemm_bf16 = 2e11,
          .copy = 4.5e10,
          .update = 1e9,
          .codecs = {.fp8 = 3e9, .int8 = 2e9, .int4 = 4e8},
          .gemm_beside_copy = 0.5,
          .gemm_beside_io = 0.9,
          .paths = {{.directory = "/nvme",
                     .read = 3e9,
                     .write = 2e9,
                     .mixed = 2.5e9,
                     .block_bytes = 1 << 20,
                     .depth = 16,
                     .direct = true,
                     .engine = "io_uring"}}};
}

TEST(HardwareProfile, ComesBackFromItsFile) {
  const HardwareProfile was = example(), is = profile_from_json(to_json(was), "file");
  EXPECT_EQ(to_json(is), to_json(was));
  EXPECT_EQ(is.machine, was.machine);
  EXPECT_EQ(is.update, was.update);
  ASSERT_EQ(is.paths.size(), 1u);
  EXPECT_EQ(is.paths[0].directory, "/nvme");
  EXPECT_EQ(is.paths[0].block_bytes, 1 << 20);
  EXPECT_EQ(is.paths[0].depth, 16);
  EXPECT_TRUE(is.paths[0].direct);
  EXPECT_EQ(is.paths[0].engine, "io_uring");
}

TEST(HardwareProfile, CopiesTakeTheRateOfTheWorseOfTwoMemories) {
  constexpr Tier kDevice{}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0},
      kFar{TierKind::far, 0};
  HardwareProfile p = example();
  EXPECT_FALSE(nlohmann::json::parse(to_json(p)).contains("copy_pinned"));
  EXPECT_FALSE(nlohmann::json::parse(to_json(p)).contains("copy_far"));
  for (const Tier from : {kDevice, kPinned, kHost, kFar}) {
    for (const Tier to : {kDevice, kPinned, kHost, kFar}) {
      EXPECT_EQ(memory_copy_rate(p, from, to, false), p.copy / 2);  // each byte is read and written
      const bool far = from == kFar || to == kFar;
      EXPECT_EQ(memory_copy_rate(p, from, to, true), p.copy / (far ? 4 : 2));
    }
  }
  p.copy_pinned = 5e10;
  p.copy_far = 1e10;
  const HardwareProfile is = profile_from_json(to_json(p), "file");
  EXPECT_EQ(to_json(is), to_json(p));
  EXPECT_EQ(memory_copy_rate(is, kPinned, kPinned, true), 2.5e10);
  EXPECT_EQ(memory_copy_rate(is, kPinned, kDevice, true), p.copy / 2);
  EXPECT_EQ(memory_copy_rate(is, kPinned, kFar, true), 5e9);
  EXPECT_EQ(memory_copy_rate(is, kFar, kHost, true), 5e9);
}

TEST(HardwareProfile, WithoutPathsStoresNothingThatWasNotMeasured) {
  HardwareProfile alone = example();
  alone.paths.clear();
  EXPECT_FALSE(nlohmann::json::parse(to_json(alone)).contains("gemm_beside_io"));
  EXPECT_EQ(to_json(profile_from_json(to_json(alone), "file")), to_json(alone));
}

TEST(HardwareProfile, DamageNamesTheFileAndTheField) {
  const auto refused = [](const std::string& text) {
    try {
      profile_from_json(text, "cache/hardware.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::format);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refused("{"), HasSubstr("cache/hardware.json"));
  const nlohmann::json whole = nlohmann::json::parse(to_json(example()));
  for (const auto& [name, value] : whole.items()) {
    nlohmann::json damaged = whole;
    damaged.erase(name);
    EXPECT_THAT(refused(damaged.dump()), HasSubstr("'" + name + "'"));
    damaged = whole;
    damaged[name] = value.is_number() ? nlohmann::json(-1) : nlohmann::json(nullptr);
    EXPECT_THAT(refused(damaged.dump()), HasSubstr("'" + name + "'"));
  }
  nlohmann::json slow = whole;
  slow["paths"][0]["read"] = 0;
  EXPECT_THAT(refused(slow.dump()), HasSubstr("'read'"));
}

TEST(PathRates, AreMeasuredAndTheFileIsGone) {
  const tests::TempDir dir;
  const PathRates rates = measure_path(dir.path(), {.file_bytes = 16ll << 20, .seconds = 0.005});
  EXPECT_GT(rates.read, 0);
  EXPECT_GT(rates.write, 0);
  EXPECT_GT(rates.mixed, 0);
  EXPECT_GT(rates.depth, 0);
  EXPECT_GE(rates.block_bytes, 256 << 10);
  EXPECT_FALSE(rates.engine.empty());
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(PathRates, ADirectoryWithoutRoomIsRefused) {
  const tests::TempDir dir;
  try {
    measure_path(dir.path(), {.file_bytes = std::int64_t{1} << 60});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::io);
    EXPECT_THAT(error.what(), HasSubstr("free and needs"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace strata::offload
