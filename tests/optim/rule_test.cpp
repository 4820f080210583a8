#include "optim/rule.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "tests/optim/method_harness.h"

namespace strata::optim {
namespace {

// One rule twice: on any lanes, and on floats alone, which is done by decoding a tile, running over
// it and coding it again.
struct OnLanes {
  static constexpr int kMoments = 2;
  template <class F>
  F operator()(const F& g, const F&, F& m, F& v) const {
    m = fma_(F(0.1f), g - m, m);
    v = fma_(F(0.05f), g * g - v, v);
    return m / (sqrt_(v) + F(1e-8f));
  }
};
struct OnFloats {
  static constexpr int kMoments = 2;
  float operator()(float g, float w, float& m, float& v) const {
    return OnLanes().operator()<float>(g, w, m, v);
  }
};
struct OneOnLanes {
  static constexpr int kMoments = 1;
  template <class F>
  F operator()(const F& g, const F&, F& m, F&) const {
    m = fma_(F(0.1f), g - m, m);
    return select(m > F(0.f), m * m, m);
  }
};
struct OneOnFloats {
  static constexpr int kMoments = 1;
  float operator()(float g, float w, float& m, float& v) const {
    return OneOnLanes().operator()<float>(g, w, m, v);
  }
};
static_assert(LaneKernel<OnLanes> && !LaneKernel<OnFloats>);
static_assert(LaneKernel<OneOnLanes> && !LaneKernel<OneOnFloats>);

/// Directions and state after three steps of a kernel over n elements.
template <class Kernel>
std::vector<std::byte> three_steps(StateCodec codec, quant::ZeroCode zero, std::int64_t n) {
  constexpr Moment kBoth[] = {{"m", false}, {"v", true}};
  StateLayout layout;
  for (const Moment& moment : kBoth) {
    add_moment_fields(layout, codec, moment);
  }
  std::vector<Tensor> fields;
  StateViews state;
  for (const StateField& field : layout) {
    fields.push_back(Tensor::zeros(field.dtype, {field_numel(field, {n}, 0, n)}));
    state.set(field.name, fields.back());
  }
  const Tensor grad = Tensor::zeros(DType::f32, {n}), directions = Tensor::zeros(DType::f32, {n});
  RuleLoop<float> loop;
  loop.numel = n;
  loop.grad = grad.data<float>();
  loop.scale = 0.75f;
  loop.moments = {CodedMoment(codec, kBoth[0], state, {}, 0, zero),
                  CodedMoment(codec, kBoth[1], state, {}, 0, zero)};
  loop.directions = directions.data<float>();
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  for (int step = 0; step < 3; ++step) {
    for (std::int64_t i = 0; i < n; ++i) {
      const bool none = i / 256 == 2 || random() % 16 == 0;
      grad.data<float>()[i] = none ? 0.f : normal(random) * std::exp2(4.f * normal(random));
    }
    loop.run(Kernel());
  }
  fields.push_back(directions);
  std::vector<std::byte> bytes;
  for (const Tensor& field : fields) {
    bytes.insert(bytes.end(), field.bytes(), field.bytes() + field.size_bytes());
  }
  return bytes;
}

template <class Lanes, class Floats>
void expect_same_bytes() {
  for (const auto codec : {StateCodec::dynamic8, StateCodec::dynamic4, StateCodec::fp8}) {
    for (const auto zero : {quant::ZeroCode::half_least, quant::ZeroCode::zero}) {
      const std::int64_t n = 2 * kTile + 77;
      const std::vector<std::byte> want = three_steps<Floats>(codec, zero, n);
      for_every_way_to_run(
          [&] { ASSERT_EQ(three_steps<Lanes>(codec, zero, n), want) << static_cast<int>(codec); });
    }
  }
}

TEST(RuleLoop, OnePassOverCodedMomentsGivesTheBytesOfThree) {
  expect_same_bytes<OnLanes, OnFloats>();
  expect_same_bytes<OneOnLanes, OneOnFloats>();
}

}  // namespace
}  // namespace strata::optim
