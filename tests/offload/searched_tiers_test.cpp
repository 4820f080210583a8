// What the search makes of tiers: all that have a budget, as much as there is room for, and no more
// writes than are allowed.
#include <algorithm>
#include <memory>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/schedule.h"
#include "offload/placement_search.h"
#include "offload/tiered_store.h"
#include "tests/offload/stamped_machine.h"
#include "tests/support/temp_dir.h"

namespace strata::offload {
namespace {

using strata::tests::TempDir;
using ::testing::HasSubstr;

constexpr Tier kDevice{TierKind::device, 0}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0},
    kFar{TierKind::far, 0}, kNvme{TierKind::nvme, 0};
constexpr int kBlocks = 16;
constexpr std::int64_t kUnit = 4096, kState = 12 * kUnit;

/// Sixteen equal blocks: weights of 2 units, gradients of 4, state of 12. The loss works with 100
/// units that updates have for state that comes and goes.
struct Equal {
  Program step, load;
  PackSizes sizes;
  Timing timing;
  Budgets budgets;

  /// Copies between memories and transfers of files, in units a second; reads and writes of files
  /// share what they have.
  Equal(double copy, double files) {
    const StepShape shape{.blocks = kBlocks, .micro_batches = 1};
    step = make_step(shape, Order::layer_major, UpdateMode::after_norm);
    load = make_load(shape);
    sizes[{PackClass::workspace}] = kUnit;
    sizes[{PackClass::workspace, kBlocks - 1}] = 100 * kUnit;
    for (int b = 0; b < kBlocks; ++b) {
      sizes[{PackClass::weights, b}] = 2 * kUnit;
      sizes[{PackClass::grads, b}] = 4 * kUnit;
      sizes[{PackClass::state, b}] = kState;
      for (const PackClass cls :
           {PackClass::saved, PackClass::boundary, PackClass::boundary_grad}) {
        sizes[{cls, b, 0}] = 0;
      }
    }
    timing.compute_seconds = [](const Instruction& i) {
      return i.op == Op::forward ? 0.1 : i.op == Op::backward ? 0.2 : 0.05;
    };
    SharedLinks drive{{}, files * kUnit};
    for (const Tier a : {kDevice, kPinned, kHost, kFar, kNvme}) {
      for (const Tier b : {kDevice, kPinned, kHost, kFar, kNvme}) {
        const bool file = a == kNvme || b == kNvme;
        timing.bytes_per_second[{a, b}] = kUnit * (file ? files : copy);
        if (file && a != b) {
          drive.links.push_back({a, b});
        }
      }
    }
    timing.shared = {drive};
    // With weights and that workspace the device is full.
    budgets = {{kDevice, (2 * kBlocks + 4 + 101) * kUnit}, {kNvme, std::int64_t{1} << 40}};
  }
  FoundPlan place(std::int64_t most_written = kAnyWrites) {
    Program* const programs[] = {&step, &load};
    return search_and_place(
        programs, sizes, timing, budgets, {.instructions = 60'000}, most_written);
  }
  static std::int64_t count(const FoundPlan& found, Tier tier) {
    return std::ranges::count(found.found.by_block, tier, &Tiers::state);
  }
};

/// Steps of a found placement, with real files.
class Steps {
 public:
  Steps(const Equal& equal, const Plan& plan) : step_(equal.step), load_(equal.load) {
    NvmeConfig files{.paths = {{.directory = dir_.path(), .budget_bytes = 1 << 30}},
                     .verify = Verify::all,
                     .warn = [](std::string_view) {}};
    Budgets budgets;
    for (const auto& [tier, planned] : plan.tiers) {
      budgets[tier] = planned.arena_bytes;
    }
    store_ = std::make_unique<TieredStore>(
        plan, budgets, ledger_, files, TieredStore::Paces{}, MemoryConfig{.warn = files.warn});
    for (const PackKey key : step_.residents) {
      store_->create(key);
    }
    for (const Replica& home : step_.homes) {
      store_->create(home.key, home.tier);
    }
    Executor load_once(load_, Machine{.store = store_.get(), .loader = &machine_});
    StepScalars scalars;
    machine_.run(load_once, scalars);
    executor_ =
        std::make_unique<Executor>(step_, Machine{store_.get(), &machine_, &machine_, &machine_});
  }
  struct Bytes {
    std::int64_t read = 0, written = 0;
  };
  /// What the files saw of so many steps. What the last of them fetched for one more is not read.
  Bytes run(int steps) {
    const PathCounters before = store_->nvme()->counters(0);
    for (int t = 0; t < steps; ++t) {
      machine_.run(*executor_, scalars_);
    }
    executor_->settle();
    const PathCounters after = store_->nvme()->counters(0);
    return {after.bytes_read - before.bytes_read - fetched_ahead(),
            after.bytes_written - before.bytes_written};
  }

 private:
  std::int64_t fetched_ahead() const {
    std::int64_t bytes = 0;
    for (std::size_t k = 0; k < step_.step.size(); ++k) {
      const Instruction& i = step_.step[k];
      const bool from_file = i.op == Op::fetch && i.source == kNvme;
      bytes += from_file && runs_on(i, static_cast<int>(k)) ? kState : 0;
    }
    return bytes;
  }
  TempDir dir_;
  Program step_, load_;
  Ledger ledger_;
  std::unique_ptr<TieredStore> store_;
  tests::StampedMachine machine_;
  std::unique_ptr<Executor> executor_;
  StepScalars scalars_;
};

/// N = 16 and C = 5, static: a cache whose order alternates would hit 5 in every step but the
/// first.
TEST(SearchedTiers, A13FiveOfSixteenStatesStayInMemoryFromTheFirstStepOn) {
  Equal equal(1000, 10);
  equal.budgets[kHost] = 5 * kState;
  const FoundPlan found = equal.place();
  EXPECT_EQ(Equal::count(found, kHost), 5);
  EXPECT_EQ(Equal::count(found, kNvme), 11);
  Steps steps(equal, found.plan);
  for (const int count : {1, 4}) {
    const Steps::Bytes bytes = steps.run(count);
    EXPECT_EQ(bytes.written, count * written_bytes(equal.step, equal.sizes));
    EXPECT_GE(bytes.written, count * 11 * kState);
    EXPECT_LT(bytes.written, count * 12 * kState) << "gradients may take some of the room";
    EXPECT_EQ(bytes.read, bytes.written);
  }
}

TEST(SearchedTiers, AllThatHaveABudgetAreUsed) {
  Equal equal(1000, 10);
  for (const Tier tier : {kPinned, kHost, kFar}) {
    equal.budgets[tier] = 3 * kState;
  }
  const FoundPlan found = equal.place();
  for (const Tier tier : {kPinned, kHost, kFar}) {
    EXPECT_EQ(Equal::count(found, tier), 3) << to_string(tier);
  }
  EXPECT_EQ(Equal::count(found, kNvme), kBlocks - 9);
  Steps steps(equal, found.plan);
  EXPECT_EQ(steps.run(2).written, 2 * (kBlocks - 9) * kState);
}

TEST(SearchedTiers, UpdatesRunInPinnedMemoryButNotInFar) {
  Equal equal(1000, 10);
  equal.timing.compute_seconds = [](const Instruction& i) {
    return i.op == Op::update && i.tier == kDevice ? 100.0 : 0.1;
  };
  equal.budgets[kPinned] = equal.budgets[kFar] = 1000 * kUnit;
  const FoundPlan found = equal.place();
  EXPECT_EQ(std::ranges::count(found.found.by_block, kPinned, &Tiers::update), kBlocks);
}

/// Files are faster than memory here: without a limit all is there.
TEST(SearchedTiers, A24TheSearchKeepsToTheWritesThatAreAllowed) {
  Equal equal(2, 1000);
  equal.budgets[kHost] = 1000 * kUnit;
  for (const std::int64_t states : {16, 5, 0}) {
    Equal one = equal;
    const std::int64_t most = states * kState + kUnit;
    const FoundPlan found = one.place(most);
    EXPECT_LE(written_bytes(one.step, one.sizes), most);
    EXPECT_GE(written_bytes(one.step, one.sizes), states * kState) << "less than is allowed";
    if (states > 0) {
      Steps steps(one, found.plan);
      EXPECT_EQ(steps.run(1).written, written_bytes(one.step, one.sizes));
    }
  }
}

TEST(SearchedTiers, A24RefusesNamingTheLeastThatWasFound) {
  Equal equal(1000, 10);
  equal.budgets[kHost] = 5 * kState;
  Equal enough = equal;
  EXPECT_NO_THROW(enough.place(11 * kState));
  try {
    equal.place(11 * kState - 1);
    FAIL();
  } catch (const Infeasible& error) {
    EXPECT_EQ(error.misfit().of, Misfit::Of::writes);
    EXPECT_EQ(error.misfit().needed_bytes, 11 * kState);
    EXPECT_EQ(error.misfit().missing_bytes(), 1);
    for (const char* part : {"memory.nvme_writes", "528.0 KiB", "least"}) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }
}

}  // namespace
}  // namespace strata::offload
