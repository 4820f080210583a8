// The one place where the rooms meet.
#include "launch/assemble.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/model_state.h"
#include "launch/sharding.h"
#include "launch/weights.h"
#include "models/runner.h"
#include "offload/resident_store.h"
#include "optim/updater.h"
#include "parallel/collectives.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

using Blocks = std::vector<std::unique_ptr<Block>>;

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

struct Blueprint::Impl {
  Computation computation;
  Blocks blocks;
  std::vector<BlockSpec> specs;
  std::unique_ptr<models::GraphRunner> train, evaluate;
  std::unique_ptr<optim::OptimizerUpdater> updater;
  parallel::Together together;
  Program step, evaluation, snapshot;
  offload::Plan plan;

  explicit Impl(const Computation& c);
  void make_runners();
  void make_updater();
  void make_programs();
  PackSizes sizes() const;
  bool sharded() const { return computation.sharded_update && computation.place.world > 1; }
};

Blueprint::Impl::Impl(const Computation& c)
    : computation(c), blocks(models::build_blocks(c.model)) {
  require_work_for(c.place, c.G);
  for (const auto& block : blocks) {
    specs.push_back(block->spec());
  }
  make_runners();
  make_updater();
  make_programs();
  std::vector<Program> programs{step, snapshot};
  if (computation.evaluation_G > 0) {
    programs.push_back(evaluation);
  }
  plan = offload::make_plan(programs, sizes());
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
                              .keep = kept_by_block(c.recompute)};
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
                                                      computation.dtype);
  together = make_together(specs, *updater, shards, computation.dtype);
  together.summation = computation.summation;
  together.micro_batches = static_cast<int>(computation.G);
}

/// Of all ranks at once, so that what they owe one another is checked; ours is kept.
void Blueprint::Impl::make_programs() {
  StepShape shape{.blocks = static_cast<int>(blocks.size()),
                  .micro_batches = static_cast<int>(computation.G),
                  .world = computation.place.world,
                  .summation = computation.summation,
                  .borrows = train->borrows(),
                  .stat_phases = updater->stat_phases(),
                  .recomputed = recomputed_blocks(computation.recompute)};
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
    sizes[{PackClass::weights_next, b}] = sizes[{PackClass::weights, b}];
  }
  std::int64_t& workspace = sizes[{PackClass::workspace}];
  workspace = std::max(workspace, updater->workspace_bytes());
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
const Program& Blueprint::evaluation_program() const {
  return impl_->evaluation;
}

OptimizerBytes Blueprint::optimizer_bytes() const {
  return launch::optimizer_bytes(*impl_->updater, impl_->specs);
}

const BlockProgram& Blueprint::block_program(int block) const {
  return impl_->train->block_program(block);
}

struct Engine::Impl {
  std::unique_ptr<Blueprint> blueprint;
  Blueprint::Impl& plan;
  Ledger ledger;
  offload::ResidentStore store;
  Communicator& ranks;
  parallel::RankCollectives collectives;
  Executor step;
  std::unique_ptr<Executor> evaluation;
  std::optional<ModelState> state;

  Impl(std::unique_ptr<Blueprint> b, std::int64_t budget_bytes, Communicator& all)
      : blueprint(std::move(b)),
        plan(blueprint->impl()),
        store(plan.plan, budget_bytes, ledger),
        ranks(all),
        collectives(ranks, plan.together),
        step(plan.step, {&store, plan.train.get(), &collectives, plan.updater.get(), nullptr}) {
    if (plan.evaluate) {
      evaluation = std::make_unique<Executor>(
          plan.evaluation, Machine{&store, plan.evaluate.get(), &collectives, nullptr, nullptr});
    }
    for (const PackKey key : plan.step.residents) {
      store.create(key);
    }
    state.emplace(store,
                  *plan.updater,
                  plan.specs,
                  weight_places(plan.blocks, *plan.train),
                  plan.computation.weight_format(),
                  plan.computation.dtype,
                  plan.sharded());
  }
};

Engine::Engine(std::unique_ptr<Blueprint> blueprint,
               const offload::Budgets& budgets,
               Communicator& ranks) {
  offload::require_fit(blueprint->plan(), budgets);
  impl_ = std::make_unique<Impl>(std::move(blueprint), budgets.at(kDevice), ranks);
}
Engine::~Engine() = default;

void Engine::start(std::uint64_t seed, const std::function<void(const models::ParamSink&)>& load) {
  impl_->state->start(seed, load);
}
void Engine::restore(const checkpoint::Reader& reader) {
  impl_->state->restore(reader);
}
void Engine::step(StepScalars& scalars) {
  impl_->step.run(scalars);
}

double Engine::evaluate(double sum, std::span<const MicroBatch> batches) {
  STRATA_ASSERT(impl_->evaluation != nullptr);
  StepScalars scalars;
  scalars.inputs.batches = batches;
  scalars.inputs.loss_tokens = 1;
  impl_->evaluation->run(scalars);
  return parallel::fold_losses(
      impl_->ranks, sum, scalars.loss_sums, static_cast<int>(impl_->plan.computation.evaluation_G));
}

std::uint64_t Engine::replica_hash() const {
  std::uint64_t hash = 0;
  for (const PackKey key : impl_->plan.step.residents) {
    if (key.cls == PackClass::weights || (key.cls == PackClass::state && !impl_->plan.sharded())) {
      const Lease lease = impl_->store.acquire(key);
      hash = hash_bytes(lease.bytes(), hash);
    }
  }
  return hash;
}

void Engine::snapshot(Snapshotter& to) {
  Executor executor(impl_->plan.snapshot, {&impl_->store, nullptr, nullptr, nullptr, &to});
  StepScalars scalars;
  executor.run(scalars);
}

StateDict Engine::state_dict() const {
  const Blueprint::Impl& plan = impl_->plan;
  return plan.sharded() ? impl_->state->entries()
                        : own_share(impl_->state->entries(), plan.specs, plan.computation.place);
}

const Ledger& Engine::ledger() const {
  return impl_->ledger;
}
const Blueprint& Engine::blueprint() const {
  return *impl_->blueprint;
}

}  // namespace strata::launch
