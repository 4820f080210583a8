#include "offload/planner.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/schedule.h"
#include "offload/resident_store.h"

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
    validate({&p, 1}, Budget{&s, middle}) ? low = middle + 1 : high = middle;
  }
  return low;
}

TEST(Planner, PeakAgreesWithTheValidatorAndPlacesDoNotOverlap) {
  for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
    for (const UpdateMode mode : {UpdateMode::after_norm, UpdateMode::speculative}) {
      const Program p = make_step(shape(), order, mode);
      const PackSizes s = sizes();
      const Plan plan = make_plan({&p, 1}, s);
      const TierPlan& device = plan.tiers.at(kDevice);
      EXPECT_EQ(device.peak_bytes, validated_peak(p, s));
      EXPECT_GE(device.arena_bytes, device.peak_bytes);
      EXPECT_LE(device.arena_bytes, device.peak_bytes * 11 / 10);
    }
  }
}

TEST(Planner, RecomputeSavesWhatItDrops) {
  const Program keep = make_step(shape(), Order::micro_batch_major, UpdateMode::after_norm);
  const Program redo =
      make_step(shape({0, 1, 2}), Order::micro_batch_major, UpdateMode::after_norm);
  const Plan a = make_plan({&keep, 1}, sizes()), b = make_plan({&redo, 1}, sizes());
  EXPECT_EQ(a.tiers.at(kDevice).labels.at("saved"), 4 * 40960);  // three blocks and the loss
  EXPECT_EQ(b.tiers.at(kDevice).labels.at("saved"), 40960);
  EXPECT_LT(b.tiers.at(kDevice).arena_bytes, a.tiers.at(kDevice).arena_bytes);
}

TEST(Planner, PhasesAddUpAndTheFullestIsThePeak) {
  const Program step = make_step(shape({0}), Order::micro_batch_major, UpdateMode::after_norm);
  const Program evaluation = make_evaluation(shape());
  const std::vector<Program> programs{step, make_snapshot(shape()), evaluation};
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
  const Program p = make_step(shape(), Order::layer_major, UpdateMode::after_norm);
  const Plan plan = make_plan({&p, 1}, sizes());
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

TEST(ResidentStore, LivesByThePlanAndCountsInTheLedger) {
  const Program p = make_step(shape(), Order::micro_batch_major, UpdateMode::speculative);
  const Plan plan = make_plan({&p, 1}, sizes());
  Ledger ledger;
  EXPECT_THROW(ResidentStore(plan, plan.tiers.at(kDevice).arena_bytes - 1, ledger), Error);
  ResidentStore store(plan, plan.tiers.at(kDevice).arena_bytes, ledger);
  const PackKey weights{PackClass::weights, 1}, next{PackClass::weights_next, 1};
  const PackKey state{PackClass::state, 1}, state_next{PackClass::state_next, 1};
  for (const PackKey k : {weights, next, state, state_next}) {
    store.create(k);
    store.acquire(k).bytes()[0] = std::byte{k.cls == next.cls ? std::uint8_t{7} : std::uint8_t{1}};
  }
  EXPECT_EQ(ledger.current(kDevice), 2 * 8192 + 2 * 16384);
  EXPECT_THROW(store.create(weights), Error);
  EXPECT_THROW(store.acquire({PackClass::grads, 1}), Error);
  store.commit(1);
  EXPECT_EQ(store.acquire(weights).bytes()[0], std::byte{7});
  EXPECT_EQ(ledger.current(kDevice), 8192 + 16384);
  {
    const Lease held = store.acquire(weights);
    EXPECT_THROW(store.destroy(weights), Error);
  }
  store.destroy(weights);
  store.destroy(state);
  EXPECT_EQ(ledger.current(kDevice), 0);
  EXPECT_EQ(ledger.peak(kDevice), 2 * 8192 + 2 * 16384);
}

}  // namespace
}  // namespace strata::offload
