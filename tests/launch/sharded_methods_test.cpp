// Every method on 1 to 4 ranks, sharded as a run shards it, gives the bytes of one rank.
#include <gtest/gtest.h>

#include "launch/sharding.h"
#include "tests/optim/method_rig.h"

namespace strata::tests {
namespace {

/// Five steps: refreshes, where a method has them, are due in the first, third and fifth.
MethodRig::Bytes run(const std::string& name,
                     const std::vector<optim::Setting>& settings,
                     WeightFormat format,
                     int world) {
  const auto method = optim::make_optimizer(name, settings);
  const DType working = format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  const std::vector<BlockSpec> specs = method_specs();
  const std::vector<ShardSpec> shards = launch::make_shards(*method, specs, format, working, world);
  std::vector<std::unique_ptr<MethodRig>> rigs;
  std::vector<MethodRig*> ranks;
  for (int rank = 0; rank < world; ++rank) {
    rigs.push_back(std::make_unique<MethodRig>(name, settings, format, shards, rank));
    ranks.push_back(rigs.back().get());
  }
  for (std::int64_t t = 1; t <= 5; ++t) {
    step_together(ranks, t, gradient_of(t));
  }
  MethodRig::Bytes all;
  for (MethodRig* rank : ranks) {
    rank->collect(all);
  }
  return all;
}

void expect_equal(const MethodRig::Bytes& got, const MethodRig::Bytes& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [field, bytes] : want) {
    ASSERT_TRUE(got.at(field) == bytes) << field.first << " " << field.second;
  }
}

void sharded_is_whole(const std::string& name,
                      const std::vector<optim::Setting>& settings,
                      WeightFormat format) {
  SCOPED_TRACE(name + " " + std::string(to_string(format)));
  const MethodRig::Bytes whole = run(name, settings, format, 1);
  for (const int world : {2, 3, 4}) {
    SCOPED_TRACE(world);
    expect_equal(run(name, settings, format, world), whole);
  }
}

TEST(ShardedMethods, EveryMethodGivesTheBytesOfOneRank) {
  for (const std::string& name : optim::optimizer_names()) {
    sharded_is_whole(name, small_settings(name), WeightFormat::f32);
  }
}

TEST(ShardedMethods, EveryFormatGivesTheBytesOfOneRank) {
  for (const WeightFormat format : weight_formats()) {
    sharded_is_whole("adamw8bit", {}, format);
    sharded_is_whole("microadam", {}, format);
  }
}

// Sums over whole tensors have an order that cuts do not change.
TEST(ShardedMethods, PercentileClippingGivesTheBytesOfOneRank) {
  sharded_is_whole("adamw8bit", {{"percentile_clip", "50"}}, WeightFormat::f32);
}

TEST(ShardedMethods, SlowEveryMethodInEveryFormat) {
  for (const std::string& name : optim::optimizer_names()) {
    for (const WeightFormat format : weight_formats()) {
      sharded_is_whole(name, small_settings(name), format);
    }
  }
}

// Without cuts the test above would show nothing.
TEST(ShardedMethods, TensorsAreCut) {
  const auto method = optim::make_optimizer("adamw", {});
  const auto shards =
      launch::make_shards(*method, method_specs(), WeightFormat::f32, DType::f32, 3);
  EXPECT_GT(std::ranges::count(shards, TensorId{12}, &ShardSpec::tensor), 1);
}

}  // namespace
}  // namespace strata::tests
