// The one place where the rooms meet.
#include "launch/assemble.h"

#include <optional>
#include <utility>

#include "core/error.h"
#include "launch/blueprint_parts.h"
#include "launch/model_state.h"
#include "launch/weights.h"
#include "offload/tiered_store.h"
#include "parallel/collectives.h"

namespace strata::launch {

namespace {

offload::NvmeConfig nvme_of(const Computation& computation) {
  return computation.offloading ? computation.offloading->nvme : offload::NvmeConfig();
}

offload::MemoryConfig memory_of(const Computation& computation) {
  return computation.offloading ? computation.offloading->memory : offload::MemoryConfig();
}

}  // namespace

struct Engine::Impl {
  std::unique_ptr<Blueprint> blueprint;
  Blueprint::Impl& plan;
  Ledger ledger;
  offload::TieredStore store;
  Communicator& ranks;
  parallel::RankCollectives collectives;
  std::unique_ptr<Executor> step, evaluation, flush;
  StepScalars::Before before;  // what a lazy step has put off
  std::optional<ModelState> state;
  std::int64_t period = 0;

  Impl(std::unique_ptr<Blueprint> b, const offload::Budgets& budgets, Communicator& all)
      : blueprint(std::move(b)),
        plan(blueprint->impl()),
        store(
            plan.plan, budgets, ledger, nvme_of(plan.computation), {}, memory_of(plan.computation)),
        ranks(all),
        collectives(ranks, plan.together) {
    make_executors();
    for (const PackKey key : plan.step.residents) {
      store.create(key);
    }
    for (const Replica& home : plan.step.homes) {
      store.create(home.key, home.tier);
    }
    state.emplace(store,
                  *plan.updater,
                  plan.specs,
                  weight_places(plan.blocks, *plan.train),
                  plan.computation.weight_format(),
                  plan.computation.dtype,
                  plan.sharded());
  }
  void make_executors();
  void run(const Program& program, const Machine& machine) {
    StepScalars scalars;
    Executor(program, machine).run(scalars);
  }
  void enter(std::int64_t step_number);
  void run_step(StepScalars& scalars);
  void settle();
  template <class Body>
  void each_turn(const Body& body) const {
    for (const int block : plan.updater->in_turn()) {
      body(PackKey{PackClass::turn_state, block});
    }
  }
};

void Engine::Impl::make_executors() {
  step = std::make_unique<Executor>(
      plan.step, Machine{&store, plan.train.get(), &collectives, plan.updater.get()});
  if (plan.lazy()) {
    flush = std::make_unique<Executor>(plan.flush,
                                       Machine{&store, nullptr, &collectives, plan.updater.get()});
  }
  if (plan.evaluate) {
    evaluation = std::make_unique<Executor>(plan.evaluation,
                                            Machine{&store, plan.evaluate.get(), &collectives});
  }
}

void Engine::Impl::run_step(StepScalars& scalars) {
  if (!plan.lazy()) {
    return step->run(scalars);
  }
  scalars.before = before;
  step->run(scalars);
  before = {scalars.outcome, scalars.inputs.info, scalars.block_scales};
}

/// What steps leave to the next one is done, before somebody looks at weights: transfers that run
/// on, updates that were put off.
void Engine::Impl::settle() {
  step->settle();
  if (before.outcome == Outcome::skip) {
    return;
  }
  StepScalars scalars;
  scalars.before = std::exchange(before, {});
  flush->run(scalars);
}

/// Another period: the state of the turns before is gone, that of the new ones begins.
void Engine::Impl::enter(std::int64_t step_number) {
  const std::int64_t next = plan.updater->period_of(step_number);
  if (next == period) {
    return;
  }
  settle();
  each_turn([&](PackKey key) { store.destroy(key); });
  plan.enter(step_number);
  store.adopt(plan.plan);
  each_turn([&](PackKey key) { store.create(key); });
  state->begin_turns();
  make_executors();
  period = next;
}

Engine::Engine(std::unique_ptr<Blueprint> blueprint,
               const offload::Budgets& budgets,
               Communicator& ranks) {
  offload::require_fit(blueprint->plan(), budgets);
  impl_ = std::make_unique<Impl>(std::move(blueprint), budgets, ranks);
}
Engine::~Engine() = default;

void Engine::start(std::uint64_t seed, const models::ParamSource& weights) {
  impl_->state->start_from(seed, weights);
  impl_->run(impl_->plan.load, {.store = &impl_->store, .loader = &*impl_->state});
}
void Engine::restore(const checkpoint::Reader& reader) {
  const std::int64_t done = reader.state().updates, period = impl_->plan.updater->period_steps();
  impl_->step->settle();
  impl_->enter(done + 1);
  impl_->state->restore_from(reader, period > 0 && done % period == 0);
  impl_->run(impl_->plan.load, {.store = &impl_->store, .loader = &*impl_->state});
}
void Engine::step(StepScalars& scalars) {
  impl_->enter(scalars.inputs.info.step);
  impl_->run_step(scalars);
  impl_->store.note_step();
  const std::int64_t every = impl_->plan.computation.balance_every;
  if (every > 0 && scalars.outcome != Outcome::skip && scalars.inputs.info.step % every == 0) {
    impl_->settle();
    impl_->state->balance_factors();
  }
}
void Engine::settle() {
  impl_->settle();
}
std::int64_t Engine::period() const {
  return impl_->period;
}

double Engine::evaluate(double sum, std::span<const MicroBatch> batches) {
  STRATA_ASSERT(impl_->evaluation != nullptr);
  impl_->settle();
  StepScalars scalars;
  scalars.inputs.batches = batches;
  scalars.inputs.loss_tokens = 1;
  impl_->evaluation->run(scalars);
  return parallel::fold_losses(
      impl_->ranks, sum, scalars.loss_sums, static_cast<int>(impl_->plan.computation.evaluation_G));
}

namespace {

/// A hash of all that it is shown.
class Hasher final : public Snapshotter {
 public:
  explicit Hasher(bool with_state) : with_state_(with_state) {}
  void snapshot(const Instruction& i, const Held& packs) override {
    for (const PackClass cls : {PackClass::weights, PackClass::state, PackClass::turn_state}) {
      const PackKey key{cls, i.block};
      if (packs.contains(key) && (cls == PackClass::weights || with_state_)) {
        hash_ = hash_bytes(packs[key], hash_);
      }
    }
  }
  std::uint64_t hash() const { return hash_; }

 private:
  bool with_state_;
  std::uint64_t hash_ = 0;
};

}  // namespace

std::uint64_t Engine::replica_hash() const {
  impl_->settle();
  Hasher hasher(!impl_->plan.sharded());
  impl_->run(impl_->plan.snapshot, {.store = &impl_->store, .snapshotter = &hasher});
  return hasher.hash();
}

void Engine::snapshot(Snapshotter& to) {
  impl_->settle();
  impl_->run(impl_->plan.snapshot, {.store = &impl_->store, .snapshotter = &to});
}

StateDict Engine::state_dict() const {
  const Blueprint::Impl& plan = impl_->plan;
  return plan.sharded() ? impl_->state->entries()
                        : own_share(impl_->state->entries(), plan.specs, plan.computation.place);
}

const Ledger& Engine::ledger() const {
  return impl_->ledger;
}
const offload::TieredStore& Engine::store() const {
  return impl_->store;
}
const Blueprint& Engine::blueprint() const {
  return *impl_->blueprint;
}

}  // namespace strata::launch
