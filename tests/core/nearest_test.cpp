#include "core/nearest.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace strata {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsAndReplacements) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("", "ab"), 2);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("flaw", "lawn"), 2);
  EXPECT_EQ(edit_distance("ab", "ba"), 2);
}

TEST(Nearest, IsTheFirstOfTheClosestNames) {
  const std::vector<std::string> names{"adamw", "lion", "muon", "sgd"};
  EXPECT_EQ(nearest("adam", names), "adamw");
  EXPECT_EQ(nearest("moun", names), "muon");
  EXPECT_EQ(nearest("xion", names), "lion");  // distance 1; muon 2
  const std::vector<std::string> equals{"ab", "ac"};
  EXPECT_EQ(nearest("ad", equals), "ab");
}

TEST(Nearest, IsEmptyWithoutNames) {
  EXPECT_EQ(nearest("adam", {}), "");
}

}  // namespace
}  // namespace strata
