#include "core/tensor.h"

#include <numeric>

#include <gtest/gtest.h>

namespace strata {
namespace {

TEST(Tensor, ColumnsShareTheBytesOfTheWiderOne) {
  const Tensor wide = Tensor::zeros(DType::i32, {2, 3, 7});
  std::iota(wide.data<std::int32_t>(), wide.data<std::int32_t>() + wide.numel(), 0);
  const Tensor part = wide.columns(2, 5);
  EXPECT_EQ(part.shape(), (Shape{2, 3, 3}));
  EXPECT_EQ(part.strides(), (Shape{21, 7, 1}));
  EXPECT_FALSE(part.is_contiguous());
  EXPECT_EQ(part.data<std::int32_t>()[21 + 2 * 7 + 1], 21 + 2 * 7 + 3);
  part.data<std::int32_t>()[0] = -1;
  EXPECT_EQ(wide.data<std::int32_t>()[2], -1);
  EXPECT_TRUE(wide.columns(0, 7).is_contiguous());
}

TEST(Tensor, ColumnsOfColumnsAndRowsCount) {
  const Tensor wide = Tensor::zeros(DType::f32, {4, 10});
  const Tensor part = wide.columns(3, 9).columns(1, 4).rows(2, 4);
  EXPECT_EQ(part.shape(), (Shape{2, 3}));
  EXPECT_EQ(part.data<float>(), wide.data<float>() + 2 * 10 + 4);
}

TEST(Tensor, ColumnsKeepTheWiderOneAlive) {
  Tensor part;
  {
    const Tensor wide = Tensor::zeros(DType::f32, {2, 4});
    wide.data<float>()[5] = 3.f;
    part = wide.columns(1, 2);
  }
  EXPECT_EQ(part.data<float>()[4], 3.f);
}

}  // namespace
}  // namespace strata
