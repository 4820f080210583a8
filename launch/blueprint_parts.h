#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "launch/assemble.h"
#include "launch/sharding.h"
#include "models/runner.h"
#include "optim/updater.h"

namespace strata::launch {

/// What Blueprint draws and Engine builds.
struct Blueprint::Impl {
  Computation computation;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<BlockSpec> specs;
  std::unique_ptr<models::GraphRunner> train, evaluate;
  std::unique_ptr<optim::OptimizerUpdater> updater;
  parallel::Together together;
  Program step, evaluation, snapshot, load, flush, longest_step;
  std::map<Tier, offload::TierPlan> tiers;  // of all periods
  offload::Plan plan;                       // places in the one entered

  explicit Impl(const Computation& c);
  void make_runners();
  void make_updater();
  void require_offloadable() const;
  void require_gradients_that_last() const;
  void make_programs();
  void plan_periods();
  void enter(std::int64_t step_number);
  void freeze();
  PackSizes sizes() const;
  /// Whether steps of the period entered put updates off.
  bool lazy() const { return step.lazy; }
  bool sharded() const { return computation.sharded_update && computation.place.world > 1; }
};

}  // namespace strata::launch
