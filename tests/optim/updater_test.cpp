#include "optim/updater.h"

#include <cmath>
#include <deque>
#include <limits>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/for_each.h"
#include "tests/optim/method_harness.h"
#include "tests/optim/updater_rig.h"

namespace strata::optim {
namespace {

using ::testing::HasSubstr;
using Mode = UpdaterRig::Mode;

std::shared_ptr<Optimizer> adamw() {
  return make_optimizer("adamw", {});
}

TEST(Updater, EntriesNameEveryFieldAndItsPlace) {
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16_master}) {
    UpdaterRig rig(adamw(), {}, 0, format);
    const BlockState& block = rig.updater.block(1);
    std::string listed;
    for (const StateEntry& entry : block.entries) {
      listed += entry.tensor + ":" + entry.state + " ";
      EXPECT_EQ(entry.numel, entry.end - entry.begin);
      EXPECT_EQ(entry.dtype, DType::f32);
      const bool in_weights = entry.state == "weight" && format == WeightFormat::f32;
      EXPECT_EQ(entry.pack.cls, in_weights ? PackClass::weights : PackClass::state);
      EXPECT_LE(entry.offset + entry.size_bytes(),
                static_cast<std::int64_t>(rig.bytes(entry.pack).size()));
    }
    EXPECT_EQ(listed, "w:weight w:m w:v b:weight b:m b:v ");
    const std::int64_t fields = format == WeightFormat::f32 ? 2 : 3;
    EXPECT_EQ(block.state_bytes, (fields * (8320 * 4 + 64) + 4095) / 4096 * 4096);
  }
}

TEST(Updater, UpdatesWhatTheMethodAloneWould) {
  UpdaterRig rig(adamw(), {}, 0);
  UpdaterRig::Values before, after;
  rig.collect(before);
  MethodHarness<float> alone("adamw", {}, before[{"w", "weight"}]);
  for (int t = 1; t <= 3; ++t) {
    rig.step(t, 1e-2, 0.5f);
    alone.step({&rig.gradient(1, 0, 0), 8320}, 1e-2, 0.5f);
  }
  rig.collect(after);
  EXPECT_EQ(std::memcmp(after[{"w", "weight"}].data(), alone.weights().data(), 8320 * 4), 0);
  EXPECT_NE((after[{"ln", "weight"}]), (before[{"ln", "weight"}]));
}

TEST(Updater, UnevenShardsConcatenateToTheUnshardedBytes) {
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16_master}) {
    UpdaterRig whole(adamw(), {}, 0, format);
    UpdaterRig::Values want, got;
    std::deque<UpdaterRig> ranks;
    for (const int rank : {0, 1}) {
      ranks.emplace_back(adamw(), rig_shards(), rank, format);
    }
    for (int t = 1; t <= 3; ++t) {
      whole.step(t);
      whole.norm(0);
      whole.norm(1);
      for (UpdaterRig& rank : ranks) {
        rank.step(t);
        rank.norm(0);
        rank.norm(1);
      }
    }
    whole.collect(want);
    ranks[0].collect(got);
    ranks[1].collect(got);
    EXPECT_EQ(got, want);
    for (const std::size_t b : {0u, 1u}) {
      for (std::size_t k = 0; k < whole.scalars.partials[b].size(); ++k) {
        const double left = ranks[0].scalars.partials[b][k],
                     right = ranks[1].scalars.partials[b][k];
        EXPECT_EQ(left + right, whole.scalars.partials[b][k]);
        EXPECT_EQ(left * right, 0.0);
      }
    }
  }
}

TEST(Updater, RanksTouchOnlyTheirOwnRanges) {
  UpdaterRig rig(adamw(), rig_shards(), 1);
  const std::vector<std::byte> before = rig.copy({PackClass::weights, 0});
  rig.step(1);
  const std::vector<std::byte> after = rig.copy({PackClass::weights, 0});
  EXPECT_NE(std::memcmp(before.data(), after.data(), 4096 * 4), 0);
  EXPECT_EQ(
      std::memcmp(before.data() + 4096 * 4, after.data() + 4096 * 4, before.size() - 4096 * 4), 0);
}

TEST(Updater, SpeculativeUpdateWritesTheNextGenerationUnscaled) {
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16_master}) {
    UpdaterRig direct(adamw(), {}, 0, format), speculative(adamw(), {}, 0, format);
    for (int t = 1; t <= 2; ++t) {
      direct.step(t);
      speculative.fill_gradients(static_cast<std::uint64_t>(t));
      speculative.scalars.inputs.info = {t, 0, 1e-2, 0.125f};  // stale: not decided yet
      for (const int b : {0, 1}) {
        const auto weights = speculative.copy({PackClass::weights, b});
        const auto state = speculative.copy({PackClass::state, b});
        speculative.update(b, Mode::speculative);
        EXPECT_EQ(speculative.copy({PackClass::weights, b}), weights);
        EXPECT_EQ(speculative.copy({PackClass::state, b}), state);
        EXPECT_NE(speculative.copy({PackClass::weights_next, b}), weights);
        speculative.store.commit(b, Tier());
      }
    }
    UpdaterRig::Values want, got;
    direct.collect(want);
    speculative.collect(got);
    EXPECT_EQ(got, want);
  }
}

TEST(Updater, WorkingCopyIsTheRoundedMaster) {
  UpdaterRig rig(adamw(), {}, 0, WeightFormat::bf16_master);
  const auto compare = [&](bool exact) {
    UpdaterRig::Values all;
    rig.collect(all);
    const std::vector<float>& master = all[{"w", "weight"}];
    bf16 working[8320];
    std::memcpy(working, rig.bytes({PackClass::weights, 1}).data(), sizeof working);
    std::size_t rounded = 0;
    for (std::size_t i = 0; i < 8320; ++i) {
      ASSERT_EQ(working[i].bits, to_bf16(master[i]).bits) << i;
      rounded += to_float(working[i]) != master[i] ? 1u : 0u;
    }
    EXPECT_EQ(rounded == 0, exact);
  };
  compare(true);  // a fresh master is the working weight
  rig.step(1);
  compare(false);
}

TEST(Updater, NormsAreSumsOfSquaresByChunkWithTheSameBytesEverywhere) {
  UpdaterRig rig(adamw(), {}, 0);
  rig.fill_gradients(9);
  std::vector<double> first;
  for_every_way_to_run([&] {
    rig.norm(1);
    const std::vector<double>& now = rig.scalars.partials[1];
    first = first.empty() ? now : first;
    ASSERT_EQ(std::memcmp(now.data(), first.data(), now.size() * sizeof(double)), 0);
  });
  ASSERT_EQ(first.size(), 4u);  // w: 4096, 4096, 128; b: 5
  const std::int64_t borders[] = {0, 4096, 8192, 8320};
  for (std::size_t k = 0; k < 3; ++k) {
    double sum = 0;
    for (std::int64_t i = borders[k]; i < borders[k + 1]; ++i) {
      sum += std::pow(static_cast<double>(rig.gradient(1, 0, i)), 2);
    }
    EXPECT_NEAR(first[k], sum, 1e-13 * sum);
  }
  double tail = 0;
  for (std::int64_t i = 0; i < 5; ++i) {
    tail += std::pow(static_cast<double>(rig.gradient(1, 2, i)), 2);
  }
  EXPECT_NEAR(first[3], tail, 1e-13);
  EXPECT_FALSE(rig.scalars.non_finite);
}

TEST(Updater, NormAllocatesOnce) {
  UpdaterRig rig(adamw(), {}, 0);
  rig.fill_gradients(1);
  rig.norm(0);
  const double* const before = rig.scalars.partials[0].data();
  rig.norm(0);
  EXPECT_EQ(rig.scalars.partials[0].data(), before);
}

TEST(Updater, NormFindsNonFiniteGradientsAndTakesTheLargestFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInf, -kInf}) {
    for (const std::int64_t at : {0, 4095, 4096, 8191, 8317, 8319}) {
      UpdaterRig rig(adamw(), {}, 0);
      rig.fill_gradients(2);
      rig.gradient(1, 0, at) = bad;
      rig.norm(0);
      EXPECT_FALSE(rig.scalars.non_finite);
      rig.norm(1);
      EXPECT_TRUE(rig.scalars.non_finite) << bad << " at " << at;
      rig.norm(0);
      EXPECT_TRUE(rig.scalars.non_finite) << "a later block must not hide it";
    }
  }
  UpdaterRig rig(adamw(), {}, 0);
  rig.fill_gradients(2);
  for (std::int64_t i = 0; i < 8320; ++i) {
    rig.gradient(1, 0, i) = std::numeric_limits<float>::max();
  }
  rig.norm(1);
  EXPECT_FALSE(rig.scalars.non_finite);
}

TEST(Updater, A7NormFindsOneBadElementInEveryLane) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  UpdaterRig rig(adamw(), {}, 0);
  rig.fill_gradients(2);
  for (const std::int64_t first : {0, 4096 - 32, 8320 - 64}) {
    for (std::int64_t at = first; at < first + 64; ++at) {
      for (const float bad : {std::nanf(""), kInf, -kInf}) {
        const float good = std::exchange(rig.gradient(1, 0, at), bad);
        rig.norm(1);
        EXPECT_TRUE(std::exchange(rig.scalars.non_finite, false)) << bad << " at " << at;
        rig.gradient(1, 0, at) = good;
        rig.norm(1);
        EXPECT_FALSE(rig.scalars.non_finite) << at;
      }
    }
  }
}

TEST(Updater, A7NormIsThatOfLongDoubles) {
  UpdaterRig rig(adamw(), {}, 0);
  rig.fill_gradients(5);
  long double exact = 0;
  for (std::int64_t i = 0; i < 9600; ++i) {
    float& value = rig.gradient(0, 0, i);
    value = std::ldexp(value, static_cast<int>(i % 80) - 40);  // from tiny to huge
    exact += static_cast<long double>(value) * value;
  }
  for (std::int64_t i = 0; i < 33; ++i) {
    const long double value = rig.gradient(0, 1, i);
    exact += value * value;
  }
  rig.norm(0);
  double sum = 0;
  for (const double partial : rig.scalars.partials[0]) {
    sum += partial;
  }
  EXPECT_LE(std::abs(static_cast<double>(sum - exact)), 1e-12 * static_cast<double>(exact));
}

/// Two phases: the sum of the gradient, then the spread about it; w <- sum of both. Counts
/// its calls of stats in the state. Frozen in odd steps when asked to be.
class Spread final : public Optimizer {
 public:
  explicit Spread(bool freezes = false) : freezes_(freezes) {}
  StateLayout state_layout(const ParamInfo&) const override {
    return {{"calls", DType::f32, Granularity::element(), 1}};
  }
  Needs needs(const ParamInfo& param, std::int64_t step) const override {
    return {.workspace_bytes = param.role == Role::embed ? 1000 : 8,
            .stat_phases = 2,
            .stats = 1,
            .active = !freezes_ || step % 2 == 0};
  }
  void stats(const SliceIn& grad,
             StateViews& state,
             std::span<const double> totals,
             std::span<double> partial,
             int phase,
             Workspace& workspace,
             const StepInfo&,
             Stream&) override {
    EXPECT_EQ(totals.size(), static_cast<std::size_t>(phase));
    EXPECT_GE(workspace.bytes.size(), 8u);
    for (std::int64_t i = 0; i < grad.grad.numel(); ++i) {
      const double g = grad.f32()[i];
      partial[0] += phase == 0 ? g : std::abs(g - totals[0]);
      state["calls"].data<float>()[i] += 1.f;
    }
  }
  void update(Slice& weight,
              const SliceIn&,
              StateViews&,
              std::span<const double> totals,
              Workspace&,
              const StepInfo&,
              Stream&) override {
    ASSERT_EQ(totals.size(), 2u);
    for (std::int64_t i = 0; i < weight.numel(); ++i) {
      weight.master.data<float>()[i] = static_cast<float>(totals[0] + totals[1]);
    }
  }

 private:
  bool freezes_;
};

/// Small whole numbers, so that every order of adding gives the same sum.
void whole_gradients(UpdaterRig& rig) {
  rig.fill_gradients(1);
  for (std::int64_t i = 0; i < 8320; ++i) {
    rig.gradient(1, 0, i) = static_cast<float>(i % 7);
  }
  for (std::int64_t i = 0; i < 5; ++i) {
    rig.gradient(1, 2, i) = static_cast<float>(i);
  }
}

TEST(Updater, StatsAreFoldedOverShardsAndRanksAndReachTheUpdate) {
  UpdaterRig whole(std::make_shared<Spread>(), {}, 0, WeightFormat::f32, 1000);
  EXPECT_EQ(whole.updater.stat_phases(), 2);
  EXPECT_EQ(whole.updater.workspace_bytes(), 1000);
  std::deque<UpdaterRig> ranks;
  for (const int rank : {0, 1}) {
    ranks.emplace_back(std::make_shared<Spread>(), rig_shards(), rank, WeightFormat::f32, 1000);
    whole_gradients(ranks.back());
  }
  whole_gradients(whole);
  for (const int phase : {0, 1}) {
    whole.stats(1, phase);
    ranks[0].stats(1, phase);
    ranks[1].stats(1, phase);
    std::vector<double>&left = ranks[0].scalars.stats, &right = ranks[1].scalars.stats;
    ASSERT_EQ(left.size(), right.size());
    for (std::size_t i = 0; i < left.size(); ++i) {
      left[i] = right[i] = left[i] + right[i];
    }
  }
  double sum = 0, spread = 0;
  for (int i = 0; i < 5; ++i) {
    sum += i;
  }
  for (int i = 0; i < 5; ++i) {
    spread += std::abs(i - sum);
  }
  UpdaterRig::Values want, got;
  whole.update(1);
  ranks[0].update(1);
  ranks[1].update(1);
  whole.collect(want);
  ranks[0].collect(got);
  ranks[1].collect(got);
  const std::vector<float> expected(5, static_cast<float>(sum + spread));
  EXPECT_EQ((want[{"b", "weight"}]), expected);
  EXPECT_EQ((got[{"b", "weight"}]), expected);
  EXPECT_EQ((got[{"w", "weight"}]), (want[{"w", "weight"}]));
}

// Gradients that are no whole numbers: any other order of addition would show in the last digits.
TEST(Updater, SumsDoNotDependOnWhereATensorIsCut) {
  const auto sums = [](const std::vector<std::vector<ShardSpec>>& by_rank) {
    std::deque<UpdaterRig> ranks;
    for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
      ranks.emplace_back(std::make_shared<Spread>(),
                         by_rank[rank],
                         static_cast<int>(rank),
                         WeightFormat::f32,
                         1000);
      ranks.back().fill_gradients(3);
    }
    std::vector<double> total;
    for (const int phase : {0, 1}) {
      total.clear();
      for (UpdaterRig& rank : ranks) {
        rank.stats(1, phase);
        total.resize(rank.scalars.stats.size());
        std::ranges::transform(total, rank.scalars.stats, total.begin(), std::plus<>());
      }
      for (UpdaterRig& rank : ranks) {
        rank.scalars.stats = total;
      }
    }
    for (UpdaterRig& rank : ranks) {
      rank.update(1);
    }
    return total;
  };
  std::vector<ShardSpec> two = rig_shards(), three = rig_shards();
  three.front().owner = 2;
  const std::vector<double> whole = sums({{}});
  // Three pieces of `w` and one of `b`, in two phases.
  EXPECT_EQ(whole.size(), 8u);
  EXPECT_EQ(sums({two, two}), whole);
  EXPECT_EQ(sums({three, three, three}), whole);
}

TEST(Updater, StateChangedBySpeculativeStatsSurvivesUntilTheUpdate) {
  UpdaterRig rig(std::make_shared<Spread>(), {}, 0, WeightFormat::f32, 1000);
  whole_gradients(rig);
  const auto state = rig.copy({PackClass::state, 1});
  rig.stats(1, 0, Mode::speculative);
  rig.stats(1, 1, Mode::speculative);
  rig.update(1, Mode::speculative);
  EXPECT_EQ(rig.copy({PackClass::state, 1}), state);
  rig.store.commit(1, Tier());
  UpdaterRig::Values all;
  rig.collect(all);
  EXPECT_EQ((all[{"b", "calls"}]), std::vector<float>(5, 2.f));
}

TEST(Updater, FrozenParametersAreLeftAlone) {
  UpdaterRig rig(std::make_shared<Spread>(true), {}, 0, WeightFormat::f32, 1000);
  whole_gradients(rig);
  const auto weights = rig.copy({PackClass::weights, 1});
  for (const std::int64_t t : {1, 2}) {
    rig.scalars.inputs.info = {t, 0, 1.0, 1.f};
    rig.stats(1, 0);
    rig.stats(1, 1);
    rig.update(1);
    EXPECT_EQ(rig.copy({PackClass::weights, 1}) == weights, t == 1);
  }
}

TEST(Updater, RefusesAWorkspaceThatIsTooSmall) {
  UpdaterRig rig(std::make_shared<Spread>(), {}, 0, WeightFormat::f32, 999);
  rig.fill_gradients(1);
  try {
    rig.stats(0, 0);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::internal);
    EXPECT_STREQ(error.what(), "update: 'wte' needs 1000 bytes of workspace, the pack has 999");
  }
}

/// A method that may be cut between rows only.
class ByRow final : public Optimizer {
 public:
  StateLayout state_layout(const ParamInfo&) const override { return {}; }
  Granularity granularity(const ParamInfo&) const override { return Granularity::row(); }
  void update(Slice&,
              const SliceIn&,
              StateViews&,
              std::span<const double>,
              Workspace&,
              const StepInfo&,
              Stream&) override {}
};

std::string refused(std::shared_ptr<Optimizer> method, std::vector<ShardSpec> of_w) {
  for (const ShardSpec& shard : rig_shards()) {
    if (shard.tensor != 12 && (shard.begin == 0 && shard.tensor != 10)) {
      of_w.push_back(shard);
    }
  }
  of_w.push_back({10, 0, 9600, 0});
  try {
    OptimizerUpdater updater(
        std::move(method), rig_specs(), of_w, 0, WeightFormat::f32, DType::f32);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::internal);
    return error.what();
  }
  return "accepted";
}

TEST(Updater, RefusesShardsThatDoNotFit) {
  EXPECT_EQ(refused(adamw(), {{12, 0, 4096, 0}, {12, 4096, 8320, 1}}), "accepted");
  EXPECT_THAT(refused(adamw(), {{12, 0, 4096, 0}}),
              HasSubstr("owners for 8320 elements, got 4096"));
  EXPECT_THAT(refused(adamw(), {{12, 0, 4096, 0}, {12, 8192, 8320, 0}}),
              HasSubstr("starts at 4096"));
  EXPECT_THAT(refused(adamw(), {{12, 0, 8192, 0}, {12, 4096, 8320, 0}}),
              HasSubstr("starts at 8192"));
  EXPECT_THAT(refused(adamw(), {{12, 0, 64, 0}, {12, 64, 8320, 0}}),
              HasSubstr("may not be cut at element 64"));
  EXPECT_THAT(refused(adamw(), {}), HasSubstr("'w' needs owners"));
  EXPECT_EQ(refused(std::make_shared<ByRow>(), {{12, 0, 4096, 0}, {12, 4096, 8320, 1}}),
            "accepted");  // 4096 = 64 rows of 64
  std::vector<BlockSpec> odd = rig_specs();
  EXPECT_THROW(OptimizerUpdater(std::make_shared<ByRow>(),
                                odd,
                                rig_shards(),  // cuts wte (100, 96) at 4096
                                0,
                                WeightFormat::f32,
                                DType::f32),
               Error);
}

TEST(Updater, AMethodWithoutStateNeedsNone) {
  UpdaterRig rig(make_optimizer("sgd", {}), {}, 0);
  EXPECT_EQ(rig.updater.block(0).state_bytes, 0);
  const auto before = rig.copy({PackClass::weights, 0});
  rig.step(1);
  EXPECT_NE(rig.copy({PackClass::weights, 0}), before);
}

}  // namespace
}  // namespace strata::optim
