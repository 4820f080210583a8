#include "checkpoint/directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace strata::checkpoint {
namespace {

TEST(Name, HasOneSpelling) {
  EXPECT_EQ(to_string(Name{12, 3}), "s000000000012-i0003");
  EXPECT_EQ(parse_name("s000000000012-i0003"), (Name{12, 3}));
  EXPECT_EQ(parse_name(to_string(Name{9'999'999'999'999, 12'345})),
            (Name{9'999'999'999'999, 12'345}));
  for (const char* other : {"",
                            "s12-i3",
                            "s000000000012-i0003x",
                            ".stage-s000000000012-i0003",
                            "s000000000012",
                            "s-00000000012-i0003",
                            "s99999999999999999999-i0001",
                            "t000000000012-i0003"}) {
    EXPECT_EQ(parse_name(other), std::nullopt) << other;
  }
}

TEST(Name, DataFilesAreRecognised) {
  EXPECT_EQ(data_file_name(3, 12), "d00003_12.safetensors");
  EXPECT_TRUE(is_data_file_name(data_file_name(123'456, 789)));
  EXPECT_FALSE(is_data_file_name("../d00003_12.safetensors"));
  EXPECT_FALSE(is_data_file_name("d00003_12.safetensors/x"));
  EXPECT_FALSE(is_data_file_name("MANIFEST.pb"));
}

TEST(Committed, NewestFirstByStepThenIncarnation) {
  const tests::TempDir dir;
  for (const char* name :
       {"s000000000002-i0001", "s000000000010-i0001", "s000000000002-i0002", ".stage-x", "notes"}) {
    create_directory(dir / name);
  }
  EXPECT_THAT(committed(dir.path()), testing::ElementsAre(Name{10, 1}, Name{2, 2}, Name{2, 1}));
  EXPECT_THAT(committed(dir / "none"), testing::IsEmpty());
}

}  // namespace
}  // namespace strata::checkpoint
