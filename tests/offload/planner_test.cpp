#include "offload/planner.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/schedule.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

StepShape shape(std::vector<int> recomputed = {}) {
  return {
      .blocks = 4, .micro_batches = 3, .borrows = {{3, 0}}, .recomputed = std::move(recomputed)};
}

PackSizes sizes() {
  PackSizes s;
  s[{PackClass::workspace}] = 4096;
  s[{PackClass::workspace, 3}] = 20480;
  s[{PackClass::borrowed_grads, 3}] = 8192;
  for (int b = 0; b < 4; ++b) {
    for (const PackClass cls : {PackClass::weights, PackClass::weights_next, PackClass::grads}) {
      s[{cls, b}] = 8192;
    }
    s[{PackClass::state, b}] = s[{PackClass::state_next, b}] = 16384;
    for (int mb = 0; mb < 3; ++mb) {
      s[{PackClass::saved, b, mb}] = 40960;
      s[{PackClass::boundary, b, mb}] = s[{PackClass::boundary_grad, b, mb}] = 4096;
    }
  }
  return s;
}

/// Bytes that the validator would count, by trying budgets.
std::int64_t validated_peak(const Program& p, const PackSizes& s) {
  std::int64_t low = 0, high = 1 << 24;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    validate({&p, 1}, Budget{&s, {{kDevice, middle}}}) ? low = middle + 1 : high = middle;
  }
  return low;
}

Plan plan_of(Program& program) {
  Program* const programs[] = {&program};
  return make_plan(programs, sizes());
}

TEST(Planner, PeakAgreesWithTheValidatorAndPlacesDoNotOverlap) {
  for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
    for (const UpdateMode mode : {UpdateMode::after_norm, UpdateMode::speculative}) {
      Program p = make_step(shape(), order, mode);
      const PackSizes s = sizes();
      const Plan plan = plan_of(p);
      const TierPlan& device = plan.tiers.at(kDevice);
      EXPECT_EQ(device.peak_bytes, validated_peak(p, s));
      EXPECT_GE(device.arena_bytes, device.peak_bytes);
      EXPECT_LE(device.arena_bytes, device.peak_bytes * 11 / 10);
    }
  }
}

TEST(Planner, RecomputeSavesWhatItDrops) {
  Program keep = make_step(shape(), Order::micro_batch_major, UpdateMode::after_norm);
  Program redo = make_step(shape({0, 1, 2}), Order::micro_batch_major, UpdateMode::after_norm);
  const Plan a = plan_of(keep), b = plan_of(redo);
  EXPECT_EQ(a.tiers.at(kDevice).labels.at("saved"), 4 * 40960);  // three blocks and the loss
  EXPECT_EQ(b.tiers.at(kDevice).labels.at("saved"), 40960);
  EXPECT_LT(b.tiers.at(kDevice).arena_bytes, a.tiers.at(kDevice).arena_bytes);
}

TEST(Planner, PhasesAddUpAndTheFullestIsThePeak) {
  Program step = make_step(shape({0}), Order::micro_batch_major, UpdateMode::after_norm);
  Program evaluation = make_evaluation(shape()), snapshot = make_snapshot(shape());
  Program* const programs[] = {&step, &snapshot, &evaluation};
  const Plan plan = make_plan(programs, sizes());
  const TierPlan& device = plan.tiers.at(kDevice);
  std::int64_t fullest = 0;
  for (const auto& [phase, planned] : device.phases) {
    std::int64_t sum = 0;
    for (const auto& [label, bytes] : planned.labels) {
      sum += bytes;
      EXPECT_LE(bytes, device.labels.at(label)) << to_string(phase) << ' ' << label;
    }
    EXPECT_EQ(sum, planned.peak_bytes) << to_string(phase);
    fullest = std::max(fullest, planned.peak_bytes);
  }
  EXPECT_EQ(fullest, device.peak_bytes);
  EXPECT_EQ(device.phases.size(), 5u);
  const std::int64_t residents = 4 * (8192 + 16384) + 4096;  // weights, state, workspace
  EXPECT_EQ(device.phases.at(Phase::snapshot).peak_bytes, residents);
  EXPECT_EQ(device.phases.at(Phase::evaluation).peak_bytes, residents + 4096 + 20480);
  EXPECT_FALSE(device.phases.at(Phase::evaluation).labels.contains("saved"));
  EXPECT_FALSE(device.phases.at(Phase::update).labels.contains("saved"));
  EXPECT_EQ(device.phases.at(Phase::forward).labels.at("saved"), 3 * 40960);  // 1, 2 and the loss
}

TEST(Planner, RefusalNamesTierNeedAndBudget) {
  Program p = make_step(shape(), Order::layer_major, UpdateMode::after_norm);
  const Plan plan = plan_of(p);
  EXPECT_NO_THROW(require_fit(plan, {{kDevice, plan.tiers.at(kDevice).arena_bytes}}));
  try {
    require_fit(plan, {{kDevice, 100000}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::infeasible);
    const std::string text = error.what();
    for (const char* part : {"device", "97.7 KiB", "saved", "memory.device"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
    }
  }
}

}  // namespace
}  // namespace strata::offload
