// Where the bytes of a step may be: what is compared is what is planned, and least means least.
#include <algorithm>

#include <gtest/gtest.h>

#include "launch/activations.h"
#include "launch/placings.h"
#include "tests/launch/small_model.h"

namespace strata::launch {
namespace {

using Amount = MemorySettings::Device;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};

Computation computation() {
  Computation c;
  c.model = tests::small_gpt2(4, 32);
  c.T = 32;
  c.B = 2;
  c.G = 3;
  return c;
}

MemorySettings memory(std::int64_t device, std::int64_t host) {
  MemorySettings m;
  m.device = Amount::bytes;
  m.device_bytes = device;
  m.host_bytes = host;
  m.recompute.automatic = true;
  return m;
}

std::int64_t reserved(const Planned& planned, Tier tier) {
  const auto& tiers = planned.blueprint->plan().tiers;
  return tiers.contains(tier) ? tiers.at(tier).arena_bytes : 0;
}

/// Three quarters of what the computation needs where all is in the device, every activation kept
/// or not.
std::int64_t tight() {
  MemorySettings least = memory(0, 0);
  least.device = Amount::minimum;
  return reserved(plan_memory(computation(), least, {}), kDevice) * 3 / 4;
}

TEST(PlanPlacings, TheOneInUseIsTheFastestThatFits) {
  const MemorySettings m = memory(tight(), 64 << 20);
  const Planned planned = plan_memory(computation(), m, {});
  ASSERT_TRUE(planned.fits());
  ASSERT_NE(planned.blueprint->computation().offloading, nullptr);
  const auto all = compare_placings(computation(), m, {}, planned.blueprint.get());
  EXPECT_TRUE(all.front().chosen);
  EXPECT_EQ(all.front().tiers, planned.blueprint->computation().offloading->tiers);
  EXPECT_EQ(std::ranges::count(all, true, &Placing::chosen), 1);
  // In the device alone nothing fits, whatever is computed again.
  const auto alone = std::ranges::count_if(
      all, [](const Placing& p) { return p.tiers == offload::Tiers() && p.misfit.has_value(); });
  EXPECT_EQ(alone, 5);  // kinds of recompute
  for (const Placing& p : all) {
    EXPECT_TRUE(p.misfit || p.reserved_bytes.at(kDevice) <= m.device_bytes)
        << placing_name(p.tiers);
  }
}

TEST(PlanPlacings, WhatFitsTheDeviceStaysThereAndIsComparedAllTheSame) {
  const MemorySettings m = memory(1 << 30, 64 << 20);
  const Planned planned = plan_memory(computation(), m, {});
  EXPECT_EQ(planned.blueprint->computation().offloading, nullptr);
  const auto all = compare_placings(computation(), m, {}, planned.blueprint.get());
  EXPECT_GT(all.size(), 3u);
  const auto chosen = std::ranges::find(all, true, &Placing::chosen);
  ASSERT_NE(chosen, all.end());
  EXPECT_EQ(chosen->tiers, offload::Tiers());
  EXPECT_EQ(placing_name(chosen->tiers), "device");
}

TEST(PlanPlacings, MinimumIsTheLeastOfAllThatFit) {
  MemorySettings m = memory(tight(), 0);
  m.host = Amount::minimum;
  const Planned planned = plan_memory(computation(), m, {});
  ASSERT_TRUE(planned.fits());
  const std::int64_t least = reserved(planned, kHost);
  ASSERT_GT(least, 0);
  for (const Placing& p : compare_placings(computation(), m, {}, nullptr)) {
    EXPECT_TRUE(p.misfit || p.reserved_bytes.at(kHost) >= least) << placing_name(p.tiers);
  }
}

TEST(PlanPlacings, WhenNothingFitsTheNearestIsNamed) {
  const MemorySettings m = memory(1 << 16, 64 << 20);
  try {
    plan_memory(computation(), m, {});
    FAIL();
  } catch (const offload::Infeasible& error) {
    EXPECT_EQ(error.misfit().tier, kDevice);
    EXPECT_EQ(error.misfit().budget_bytes, 1 << 16);
    for (const Placing& p : compare_placings(computation(), m, {}, nullptr)) {
      ASSERT_TRUE(p.misfit);
      EXPECT_GE(p.misfit->missing_bytes(), error.misfit().missing_bytes());
    }
  }
}

}  // namespace
}  // namespace strata::launch
