// Programs of many shapes and placements, at the least budgets, run to their ends again and again:
// every byte is where it was left, and the books are settled.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "offload/tiered_store.h"
#include "tests/offload/nvme_rig.h"
#include "tests/offload/random_programs.h"
#include "tests/offload/stamped_machine.h"

namespace strata::offload {
namespace {

using tests::kDevice, tests::kHost, tests::kNvme;

/// The programs of a computation, planned as a run plans them, and all that obeys them.
class Run {
 public:
  Run(std::uint64_t seed, const tests::TempDir& dir) : dice_(seed + 1000) {
    const tests::Drawn d = tests::draw(seed);
    programs_ = {make_step(d.shape, d.order, d.mode),
                 make_load(d.shape),
                 make_evaluation(d.shape),
                 make_snapshot(d.shape)};
    if (d.shape.lazy) {
      programs_.push_back(make_flush(d.shape));
    }
    std::vector<Program*> all;
    for (Program& program : programs_) {
      all.push_back(&program);
    }
    plan_ = place(all,
                  d.placement,
                  d.sizes,
                  tests::even_timing(),
                  {{kDevice, kLeast}, {kHost, kLeast}, {kNvme, 64 * tests::kMiB}});
    Budgets budgets;
    for (const auto& [tier, planned] : plan_.tiers) {
      budgets[tier] = planned.arena_bytes;
    }
    store_ = std::make_unique<TieredStore>(plan_, budgets, ledger_, tests::small_config(dir, 2));
    begin();
  }

  void step() {
    machine_.outcome = std::vector{Outcome::clip_is_one,
                                   Outcome::clip_below_one,
                                   Outcome::skip}[static_cast<std::size_t>(dice_.below(3))];
    machine_.run(*executors_[0], scalars_);
    for (const auto& [tier, planned] : plan_.tiers) {
      ASSERT_LE(ledger_.peak(tier), planned.peak_bytes) << to_string(tier);
    }
    if (dice_.one_in(4)) {
      executors_[0]->settle();
      expect_settled();
      if (executors_.size() > 4) {
        machine_.run(*executors_[4], scalars_);
      }
      StepScalars evaluation;
      machine_.run(*executors_[2], evaluation);
      expect_settled();
    }
  }
  std::int64_t uses() const { return machine_.uses; }

 private:
  void begin() {
    for (const PackKey key : programs_[0].residents) {
      store_->create(key);
    }
    for (const Replica& home : programs_[0].homes) {
      store_->create(home.key, home.tier);
    }
    const Machine machine{store_.get(), &machine_, &machine_, &machine_, nullptr, &machine_};
    for (const Program& program : programs_) {
      executors_.push_back(std::make_unique<Executor>(program, machine));
    }
    for (const auto& [tier, planned] : plan_.tiers) {
      between_steps_[tier] = ledger_.current(tier);
    }
    machine_.run(*executors_[1], scalars_);
  }
  /// Nothing is left of what comes and goes, and no tier held more than was planned.
  void expect_settled() {
    for (const auto& [tier, planned] : plan_.tiers) {
      ASSERT_EQ(ledger_.current(tier), between_steps_[tier]) << to_string(tier);
      ASSERT_LE(ledger_.peak(tier), planned.peak_bytes) << to_string(tier);
    }
  }

  tests::Dice dice_;
  std::vector<Program> programs_;  // step, load, evaluation, snapshot, flush
  Plan plan_;
  Ledger ledger_;
  std::unique_ptr<TieredStore> store_;
  tests::StampedMachine machine_;
  std::vector<std::unique_ptr<Executor>> executors_;
  std::map<Tier, std::int64_t> between_steps_;
  StepScalars scalars_;
};

std::int64_t run_seeds(int seeds, std::int64_t uses_each) {
  std::int64_t uses = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const tests::TempDir dir;
    Run run(static_cast<std::uint64_t>(seed), dir);
    while (run.uses() < uses_each && !testing::Test::HasFatalFailure()) {
      run.step();
    }
    uses += run.uses();
  }
  return uses;
}

TEST(Deadlock, A10RandomProgramsEndAtTheLeastBudgets) {
  EXPECT_GE(run_seeds(20, 500), 20 * 500);
}

TEST(Deadlock, A10AMillionUsesSlow) {
  EXPECT_GE(run_seeds(20, 50'000), 1'000'000);
}

}  // namespace
}  // namespace strata::offload
