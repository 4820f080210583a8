// The one place where the rooms meet.
#include "launch/assemble.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/weights.h"
#include "models/runner.h"
#include "offload/resident_store.h"
#include "optim/updater.h"
#include "parallel/collectives.h"
#include "parallel/self_communicator.h"

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

void require_valid(const Program& program) {
  if (const auto wrong = validate({&program, 1})) {
    throw Error(Errc::internal, "schedule: " + to_string(*wrong));
  }
}

}  // namespace

struct Blueprint::Impl {
  Computation computation;
  Blocks blocks;
  std::unique_ptr<models::GraphRunner> train, evaluate;
  std::unique_ptr<optim::OptimizerUpdater> updater;
  std::vector<parallel::BorrowedGrad> borrowed;
  Program step, evaluation, snapshot;
  offload::Plan plan;

  explicit Impl(const Computation& c);
  void make_runners();
  void make_updater();
  void make_programs();
  PackSizes sizes() const;
};

Blueprint::Impl::Impl(const Computation& c)
    : computation(c), blocks(models::build_blocks(c.model)) {
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
                              .last_micro_batch = static_cast<int>(c.G),
                              .keep = kept_by_block(c.recompute)};
  train = std::make_unique<models::GraphRunner>(blocks, config);
  if (c.evaluation_G > 0) {
    config.use = BlockProgram::Use::evaluate;
    config.keep.clear();
    config.last_micro_batch = static_cast<int>(c.evaluation_G);
    evaluate = std::make_unique<models::GraphRunner>(blocks, config);
  }
}

void Blueprint::Impl::make_updater() {
  std::vector<BlockSpec> specs;
  for (const auto& block : blocks) {
    specs.push_back(block->spec());
  }
  const auto format =
      computation.dtype == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16_master;
  updater = std::make_unique<optim::OptimizerUpdater>(
      optim::make_optimizer(computation.method, computation.method_settings),
      specs,
      std::vector<ShardSpec>{},
      0,
      format);
  for (std::size_t b = 0; b < specs.size(); ++b) {
    std::vector<std::int64_t> bytes;
    for (const BorrowedParam& p : specs[b].borrows) {
      bytes.push_back(p.shape.numel() * size_bytes(DType::f32));
    }
    const PackLayout layout = pack_layout(bytes);
    for (std::size_t k = 0; k < specs[b].borrows.size(); ++k) {
      const BorrowedParam& p = specs[b].borrows[k];
      borrowed.push_back(
          {.borrower = static_cast<int>(b),
           .owner = p.block,
           .owner_offset = updater->block(p.block).grads.offset[static_cast<std::size_t>(p.param)],
           .borrower_offset = layout.offset[k],
           .numel = p.shape.numel()});
    }
  }
}

void Blueprint::Impl::make_programs() {
  StepShape shape{.blocks = static_cast<int>(blocks.size()),
                  .micro_batches = static_cast<int>(computation.G),
                  .borrows = train->borrows(),
                  .stat_phases = updater->stat_phases(),
                  .recomputed = recomputed_blocks(computation.recompute)};
  step = make_step(shape, computation.order, computation.update);
  snapshot = make_snapshot(shape);
  require_valid(step);
  require_valid(snapshot);
  if (computation.evaluation_G > 0) {
    shape.micro_batches = static_cast<int>(computation.evaluation_G);
    evaluation = make_evaluation(shape);
    require_valid(evaluation);
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

const BlockProgram& Blueprint::block_program(int block) const {
  return impl_->train->block_program(block);
}

struct Engine::Impl {
  std::unique_ptr<Blueprint> blueprint;
  Blueprint::Impl& plan;
  Ledger ledger;
  offload::ResidentStore store;
  parallel::SelfCommunicator ranks;
  parallel::RankCollectives collectives;
  Executor step;
  std::unique_ptr<Executor> evaluation;
  WeightPlaces places;

  Impl(std::unique_ptr<Blueprint> b, std::int64_t budget_bytes)
      : blueprint(std::move(b)),
        plan(blueprint->impl()),
        store(plan.plan, budget_bytes, ledger),
        collectives(ranks, plan.borrowed),
        step(plan.step, {&store, plan.train.get(), &collectives, plan.updater.get(), nullptr}),
        places(weight_places(plan.blocks, *plan.train)) {
    if (plan.evaluate) {
      evaluation = std::make_unique<Executor>(
          plan.evaluation, Machine{&store, plan.evaluate.get(), &collectives, nullptr, nullptr});
    }
    for (const PackKey key : plan.step.residents) {
      store.create(key);
    }
    for (int block = 0; block < static_cast<int>(plan.blocks.size()); ++block) {
      const Lease weights = store.acquire({PackClass::weights, block});
      const Lease state = store.acquire({PackClass::state, block});
      plan.updater->init_state(block, weights.bytes(), state.bytes());
    }
  }

  /// The precise copy of a weight, when it is not the working one.
  void write_master(const ParamSpec& spec, std::int64_t begin, std::span<const float> values) {
    if (plan.computation.dtype == DType::f32) {
      return;
    }
    const int block = places.at(spec.info.name).block;
    for (const StateEntry& entry : plan.updater->block(block).entries) {
      if (entry.state == "weight" && entry.tensor == spec.info.name) {
        const Lease state = store.acquire(entry.pack);
        auto* to = reinterpret_cast<float*>(state.bytes().data() + entry.offset) + begin;
        std::copy(values.begin(), values.end(), to);
      }
    }
  }
};

Engine::Engine(std::unique_ptr<Blueprint> blueprint, const offload::Budgets& budgets) {
  offload::require_fit(blueprint->plan(), budgets);
  impl_ = std::make_unique<Impl>(std::move(blueprint), budgets.at(kDevice));
}
Engine::~Engine() = default;

void Engine::start(std::uint64_t seed, const std::function<void(const models::ParamSink&)>& load) {
  const models::ParamSink sink =
      [&](const ParamSpec& spec, std::int64_t begin, std::span<const float> values) {
        write_weights(impl_->store,
                      impl_->places.at(spec.info.name),
                      impl_->plan.computation.dtype,
                      begin,
                      values);
        impl_->write_master(spec, begin, values);
      };
  if (load) {
    return load(sink);
  }
  send_initial(impl_->plan.blocks, seed, sink);
}

void Engine::restore(const StateReader& read) {
  const bool has_master = impl_->plan.computation.dtype != DType::f32;
  for (const StateEntry& entry : state_dict()) {
    const Lease lease = impl_->store.acquire(entry.pack);
    const auto bytes = lease.bytes().subspan(static_cast<std::size_t>(entry.offset),
                                             static_cast<std::size_t>(entry.size_bytes()));
    read(entry.tensor, entry.state, entry.begin, bytes);
    if (has_master && entry.state == "weight") {  // the working copy is the master rounded
      const std::span<const float> master{reinterpret_cast<const float*>(bytes.data()),
                                          static_cast<std::size_t>(entry.numel)};
      write_weights(impl_->store, impl_->places.at(entry.tensor), DType::bf16, entry.begin, master);
    }
  }
}

void Engine::step(StepScalars& scalars) {
  impl_->step.run(scalars);
}

double Engine::evaluate(std::span<const MicroBatch> batches) {
  STRATA_ASSERT(impl_->evaluation != nullptr);
  StepScalars scalars;
  scalars.inputs.batches = batches;
  scalars.inputs.loss_tokens = 1;
  impl_->evaluation->run(scalars);
  double sum = 0;
  for (const double loss : scalars.loss_sums) {
    sum += loss;
  }
  return sum;
}

void Engine::snapshot(Snapshotter& to) {
  Executor executor(impl_->plan.snapshot, {&impl_->store, nullptr, nullptr, nullptr, &to});
  StepScalars scalars;
  executor.run(scalars);
}

StateDict Engine::state_dict() const {
  StateDict all;
  for (int b = 0; b < static_cast<int>(impl_->plan.blocks.size()); ++b) {
    const StateDict& entries = impl_->plan.updater->block(b).entries;
    all.insert(all.end(), entries.begin(), entries.end());
  }
  return all;
}

const Ledger& Engine::ledger() const {
  return impl_->ledger;
}
const Blueprint& Engine::blueprint() const {
  return *impl_->blueprint;
}

}  // namespace strata::launch
