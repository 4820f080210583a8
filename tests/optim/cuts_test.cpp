#include "optim/cuts.h"

#include <gtest/gtest.h>

#include "core/for_each.h"
#include "optim/registry.h"

namespace strata::optim {
namespace {

std::int64_t unit_of(const std::string& method,
                     const Shape& shape,
                     const std::vector<Setting>& settings = {},
                     Role role = Role::matrix) {
  return cut_unit(*make_optimizer(method, settings), {1, "w", role, shape});
}

TEST(Cuts, FallWhereTheMethodAllowsIt) {
  EXPECT_EQ(unit_of("adamw", {768, 3072}), kChunk);
  EXPECT_EQ(unit_of("adamw8bit", {768, 3072}), kChunk);
  EXPECT_EQ(unit_of("adam_mini", {3072, 768}), 3 * kChunk);  // lcm(4096, 768)
  EXPECT_EQ(unit_of("galore", {768, 3072}), 768 * 3072);
}

TEST(Cuts, OfSumsAreSixteenToTwoHundredAndFiftySixPieces) {
  const std::vector<Setting> clip{{"percentile_clip", "50"}};
  EXPECT_EQ(unit_of("adamw", {50257, 768}, clip, Role::embed), 37 * kChunk);  // 255 of them
  EXPECT_EQ(unit_of("sgd_sai", {768, 3072}), 16 * kChunk);                    // 36 of 65536
  EXPECT_EQ(unit_of("mfac_sparse", {256, 256}), kChunk);                      // 16
  EXPECT_EQ(unit_of("ggt_lowrank", {37, 61}), kChunk);                        // one
  EXPECT_EQ(unit_of("adam_mini", {3072, 768}, clip), 18 * kChunk);  // whole rows: 3 chunks each
  EXPECT_EQ(unit_of("galore", {768, 3072}, clip), 768 * 3072);
  EXPECT_EQ(unit_of("sgd_sai", {0}, {}, Role::vector), kChunk);
}

}  // namespace
}  // namespace strata::optim
