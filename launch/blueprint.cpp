// The rooms tied together on paper: sizes, programs and places of one rank.
#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/blueprint_parts.h"
#include "launch/model_state.h"
#include "launch/step_timing.h"
#include "launch/turn_plans.h"
#include "offload/placement_search.h"

namespace strata::launch {
namespace {

void merge_sizes(PackSizes& into, const PackSizes& from) {
  for (const auto& [key, bytes] : from) {
    std::int64_t& size = into[key];
    size = std::max(size, bytes);
  }
}

void require_work_for(RankPlace place, std::int64_t G) {
  if (G < place.world) {
    throw Error(Errc::config,
                fmt::format("train: a step has {} micro-batches for {} ranks and every rank needs "
                            "one; lower train.micro_batch, raise train.batch_tokens, or start at "
                            "most {} ranks",
                            G,
                            place.world,
                            G));
  }
}

}  // namespace

Blueprint::Impl::Impl(const Computation& c)
    : computation(c), blocks(models::build_blocks(c.model)) {
  require_work_for(c.place, c.G);
  for (const auto& block : blocks) {
    specs.push_back(block->spec());
  }
  make_runners();
  make_updater();
  require_offloadable();
  require_gradients_that_last();
  plan_periods();
}

/// What is done between steps needs its packs in the device.
void Blueprint::Impl::require_offloadable() const {
  if (computation.offloading == nullptr) {
    return;
  }
  const bool turns = updater->period_steps() > 0;
  if (turns || computation.balance_every > 0) {
    throw Error(Errc::config,
                fmt::format("memory: {} in the device between steps; leave memory.pinned, "
                            "memory.host, memory.far and memory.nvme out, or choose another",
                            turns ? "optim." + computation.method +
                                        " needs the blocks that take "
                                        "turns"
                                  : std::string("train.balance_every needs the factors")));
  }
}

/// Updates that are put off need them in the next step, where other blocks may train.
void Blueprint::Impl::require_gradients_that_last() const {
  const UpdateMode mode = computation.update;
  const bool puts_off = mode == UpdateMode::lazy_forward || mode == UpdateMode::hybrid;
  if (puts_off && updater->period_steps() > 0) {
    throw Error(
        Errc::config,
        fmt::format("numerics.update: {} keeps gradients from step to step, and in optim.{} "
                    "blocks take turns; set --numerics.update=after_norm or speculative",
                    mode == UpdateMode::hybrid ? "hybrid" : "lazy_forward",
                    computation.method));
  }
}

/// The bytes of each tier are those of the period that needs most; the first one is entered.
void Blueprint::Impl::plan_periods() {
  const std::vector<std::int64_t> firsts = first_steps_of_turns(*updater, computation.steps);
  for (const std::int64_t first : firsts) {  // a workspace serves all of them
    updater->enter(first);
    freeze();
  }
  std::map<Tier, offload::TierPlan> all;
  for (auto first = firsts.rbegin(); first != firsts.rend(); ++first) {
    enter(*first);
    offload::cover(all, plan.tiers);
    longest_step = step.step.size() > longest_step.step.size() ? step : longest_step;
  }
  tiers = std::move(all);
  plan.tiers = tiers;
}

/// Who trains in a step, and with it programs and places.
void Blueprint::Impl::enter(std::int64_t step_number) {
  updater->enter(step_number);
  freeze();
  make_programs();
  std::vector<Program*> programs{&step, &snapshot, &load};
  if (lazy()) {
    programs.push_back(&flush);
  }
  if (computation.evaluation_G > 0) {
    programs.push_back(&evaluation);
  }
  if (const auto& offloading = computation.offloading) {
    const PackSizes packs = sizes();
    const offload::Timing timing = step_timing(*this, *offloading);
    if (offloading->search) {
      offload::FoundPlan found = offload::search_and_place(
          programs, packs, timing, offloading->budgets, {}, offloading->most_written);
      plan = std::move(found.plan);
      Offloading done = *offloading;
      done.by_block = std::move(found.found.by_block);
      done.search = false;
      computation.offloading = std::make_shared<const Offloading>(std::move(done));
    } else {
      plan = offload::place(programs,
                            offloading->by_block.empty()
                                ? offload::placement_of(offloading->tiers, packs)
                                : offload::placement_of(offloading->by_block, packs),
                            packs,
                            timing,
                            offloading->budgets);
      offload::require_writes(step, packs, offloading->most_written);
    }
  } else {
    plan = offload::make_plan(programs, sizes());
  }
  for (const auto& [tier, all] : tiers) {
    STRATA_ASSERT(plan.tiers.at(tier).arena_bytes <= all.arena_bytes);
    plan.tiers[tier] = all;
  }
}

void Blueprint::Impl::freeze() {
  if (updater->period_steps() > 0) {
    train->freeze(updater->frozen());
  }
}

void Blueprint::Impl::make_runners() {
  const auto& c = computation;
  models::RunnerConfig config{.B = c.B,
                              .T = c.T,
                              .C = c.model.C,
                              .dtype = c.dtype,
                              .use = BlockProgram::Use::train,
                              .first_micro_batch = 0,
                              .last_micro_batch = 0,
                              .keep = kept_by_block(c.recompute),
                              .codec = c.activation_codec};
  const auto set_range = [&](std::int64_t G) {
    const auto mine = micro_batch_range(c.place.rank, c.place.world, static_cast<int>(G));
    config.first_micro_batch = mine.begin;
    config.last_micro_batch = mine.end;
  };
  set_range(c.G);
  train = std::make_unique<models::GraphRunner>(blocks, config);
  if (c.evaluation_G > 0) {
    config.use = BlockProgram::Use::evaluate;
    config.keep.clear();
    set_range(c.evaluation_G);
    evaluate = std::make_unique<models::GraphRunner>(blocks, config);
  }
}

void Blueprint::Impl::make_updater() {
  const std::shared_ptr<optim::Optimizer> method =
      optim::make_optimizer(computation.method, computation.method_settings);
  const auto shards = sharded() ? make_shards(*method,
                                              specs,
                                              computation.weight_format(),
                                              computation.dtype,
                                              computation.place.world)
                                : std::vector<ShardSpec>{};
  updater = std::make_unique<optim::OptimizerUpdater>(method,
                                                      specs,
                                                      shards,
                                                      computation.place.rank,
                                                      computation.weight_format(),
                                                      computation.dtype,
                                                      computation.seed);
  updater->restart_factors_every(computation.balance_every);
  together = make_together(specs, *updater, shards, computation.dtype);
  together.summation = computation.summation;
  together.micro_batches = static_cast<int>(computation.G);
}

/// Of all ranks at once, so that what they owe one another is checked; ours is kept.
void Blueprint::Impl::make_programs() {
  StepShape shape = with_updates({.blocks = static_cast<int>(blocks.size()),
                                  .micro_batches = static_cast<int>(computation.G),
                                  .world = computation.place.world,
                                  .summation = computation.summation,
                                  .borrows = train->borrows(),
                                  .stat_phases = updater->stat_phases(),
                                  .recomputed = recomputed_blocks(computation.recompute),
                                  .frozen = updater->frozen(),
                                  .in_turn = updater->in_turn()},
                                 computation.update,
                                 computation.speculated.value_or(0));
  const auto make = [&](const std::function<Program(const StepShape&)>& program) {
    std::vector<Program> all;
    for (shape.rank = 0; shape.rank < shape.world; ++shape.rank) {
      all.push_back(program(shape));
    }
    if (const auto wrong = validate(all)) {
      throw Error(Errc::internal, "schedule: " + to_string(*wrong));
    }
    return all[static_cast<std::size_t>(computation.place.rank)];
  };
  step =
      make([&](const StepShape& s) { return make_step(s, computation.order, computation.update); });
  snapshot = make(make_snapshot);
  load = make(make_load);
  if (lazy()) {
    flush = make(make_flush);
  }
  if (computation.evaluation_G > 0) {
    shape.micro_batches = static_cast<int>(computation.evaluation_G);
    evaluation = make(make_evaluation);
  }
}

PackSizes Blueprint::Impl::sizes() const {
  PackSizes sizes = train->pack_sizes();
  if (evaluate) {
    merge_sizes(sizes, evaluate->pack_sizes());
  }
  for (int b = 0; b < static_cast<int>(blocks.size()); ++b) {
    sizes[{PackClass::state, b}] = updater->block(b).state_bytes;
    sizes[{PackClass::state_next, b}] = updater->block(b).state_bytes;
    sizes[{PackClass::turn_state, b}] = updater->block(b).turn_state_bytes;
    sizes[{PackClass::turn_state_next, b}] = updater->block(b).turn_state_bytes;
    sizes[{PackClass::weights_next, b}] = sizes[{PackClass::weights, b}];
  }
  std::int64_t& workspace = sizes[{PackClass::workspace}];
  workspace = std::max({workspace,
                        updater->workspace_bytes(),
                        computation.balance_every > 0 ? balance_factors_bytes(specs) : 0});
  return sizes;
}

Blueprint::Blueprint(const Computation& computation) : impl_(std::make_unique<Impl>(computation)) {}
Blueprint::~Blueprint() = default;
const Computation& Blueprint::computation() const {
  return impl_->computation;
}
const offload::Plan& Blueprint::plan() const {
  return impl_->plan;
}
const Program& Blueprint::step_program() const {
  return impl_->step;
}
const Program& Blueprint::longest_step_program() const {
  return impl_->longest_step;
}
const Program& Blueprint::evaluation_program() const {
  return impl_->evaluation;
}

std::optional<offload::Simulation> Blueprint::simulate_step() const {
  const auto& offloading = computation().offloading;
  return offloading ? std::optional(offload::simulate(
                          impl_->step, impl_->plan.sizes, step_timing(*impl_, *offloading)))
                    : std::nullopt;
}

OptimizerBytes Blueprint::optimizer_bytes() const {
  return launch::optimizer_bytes(*impl_->updater, impl_->specs);
}

const BlockProgram& Blueprint::block_program(int block) const {
  return impl_->train->block_program(block);
}

}  // namespace strata::launch
