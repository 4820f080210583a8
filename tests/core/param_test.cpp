#include "core/param.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

TEST(FieldNumel, CutsAlongEveryGranularityAddUpToTheWhole) {
  const Shape shape{10, 7};
  for (const Granularity along : {Granularity::element(),
                                  Granularity::blocks_of(16),
                                  Granularity::row(),
                                  Granularity::column(),
                                  Granularity::whole()}) {
    const StateField field{"f", DType::f32, along, 3};
    const std::int64_t whole = field_numel(field, shape, 0, 70);
    std::int64_t sum = 0;
    for (std::int64_t begin = 0; begin < 70; begin += 14) {
      sum += field_numel(field, shape, begin, begin + 14);
    }
    EXPECT_EQ(sum, whole);
    EXPECT_EQ(field_numel(field, shape, 0, 0), 0);  // what lies before the first element
  }
  EXPECT_EQ(field_numel({"f", DType::u8, Granularity::blocks_of(16), 1}, shape, 0, 70), 5);
}

}  // namespace
}  // namespace strata
