// strata bench hardware: measured once, kept, and measured again where it does not fit.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"

namespace strata::tests {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class BenchHardware : public testing::Test {
 protected:
  CommandEnd bench(std::vector<std::string> words) const {
    words.insert(words.begin(), {"bench", "hardware"});
    return run_command(words, {.environment = {{"XDG_CACHE_HOME", cache_.path().string()}}});
  }
  std::filesystem::path kept() const { return cache_.path() / "strata" / "hardware.json"; }
  TempDir cache_, disk_;
};

TEST_F(BenchHardware, NamesWhatIsNoDirectory) {
  const CommandEnd end = bench({"--paths", "/no/such/place"});
  EXPECT_EQ(end.exit_code, 2);
  EXPECT_THAT(end.err, HasSubstr("--paths needs directories, got '/no/such/place'"));
  EXPECT_FALSE(std::filesystem::exists(kept()));
}

TEST_F(BenchHardware, ADamagedProfileIsNotUsed) {
  std::filesystem::create_directories(kept().parent_path());
  std::ofstream(kept()) << R"({"machine": "this one"})";
  const CommandEnd end = bench({});
  EXPECT_EQ(end.exit_code, 5);
  EXPECT_THAT(end.err, HasSubstr(kept().string()));
  EXPECT_THAT(end.err, HasSubstr("--refresh"));
}

TEST_F(BenchHardware, SlowIsMeasuredOnceAndWithinAMinute) {
  const std::string disk = std::filesystem::canonical(disk_.path()).string();
  const CommandEnd first = bench({"--json", "--paths", disk});
  ASSERT_EQ(first.exit_code, 0) << first.text();
  const json measured = json::parse(first.out);
  for (const char* rate : {"gemm_f32", "gemm_bf16", "copy", "update"}) {
    EXPECT_GT(measured[rate].get<double>(), 1e6) << rate;
  }
  for (const char* codec : {"fp8", "int8", "int4"}) {
    EXPECT_GT(measured["codecs"][codec].get<double>(), 1e6) << codec;
  }
  EXPECT_EQ(measured["paths"].size(), 1u);
  EXPECT_EQ(measured["paths"][0]["directory"], disk);
  EXPECT_TRUE(std::filesystem::is_empty(disk_.path()));
  const CommandEnd second = bench({"--json", "--paths", disk});
  EXPECT_EQ(json::parse(second.out), measured) << "kept, and read again";
  // Of another machine it is no profile; another directory is measured.
  json other = measured;
  other["machine"] = "another";
  std::ofstream(kept()) << other.dump();
  const CommandEnd third = bench({"--json"});
  ASSERT_EQ(third.exit_code, 0) << third.text();
  EXPECT_EQ(json::parse(third.out)["machine"], measured["machine"]);
  EXPECT_TRUE(json::parse(third.out)["paths"].empty());
}

}  // namespace
}  // namespace strata::tests
