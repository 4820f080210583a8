#include "core/executor.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace strata {

bool Held::contains(PackKey key) const {
  for (const Lease& lease : leases_) {
    if (lease.key() == key) {
      return true;
    }
  }
  return false;
}

std::span<std::byte> Held::operator[](PackKey key) const {
  for (const Lease& lease : leases_) {
    if (lease.key() == key) {
      return lease.bytes();
    }
  }
  throw Error(
      Errc::internal,
      "executor: the instruction touches " + to_string(key) + " which its effects do not name");
}

namespace {

Access access_of(const Effects& e, PackKey key) {
  const auto in = [&](const std::vector<PackKey>& set) {
    return std::find(set.begin(), set.end(), key) != set.end();
  };
  return in(e.writes) || in(e.adds_to) || in(e.creates) ? Access::write : Access::read;
}

}  // namespace

Executor::Executor(Program program, Machine machine)
    : program_(std::move(program)), machine_(machine) {
  // Every rank its own part; the whole is validated where the programs are made.
  if (const auto wrong = validate_alone(program_)) {
    throw Error(Errc::internal, "program: " + to_string(*wrong));
  }
  const std::size_t count = program_.step.size();
  waits_.resize(count + 1);
  started_.resize(count);
  bool decided = false;
  for (std::size_t k = 0; k < count; ++k) {
    const Instruction& i = program_.step[k];
    effects_.push_back(effects(program_, i, decided));
    std::vector<Need> needs;
    if (is_move(i.op)) {
      const int at = static_cast<int>(k);
      waits_[static_cast<std::size_t>(due(i, at))].push_back(at);
      if (runs_on(i, at)) {
        running_on_.push_back(at);
      }
    } else if (i.op != Op::commit && i.op != Op::discard) {
      for (const PackKey key : effects_.back().needs()) {
        needs.push_back({key, access_of(effects_.back(), key)});
      }
    }
    needs_.push_back(std::move(needs));
    decided = decided || i.op == Op::decide;
  }
}

void Executor::begin(StepScalars& scalars) const {
  const auto micro_batches = program_.last_micro_batch - program_.first_micro_batch;
  scalars.loss_sums.assign(static_cast<std::size_t>(micro_batches), 0.0);
  const auto blocks = static_cast<std::size_t>(program_.blocks);
  scalars.partials.resize(blocks);
  scalars.block_squares.assign(blocks, -1.0);
  scalars.block_scales.assign(scalars.inputs.clip_scope == ClipScope::pack ? blocks : 0, 1.f);
  for (const int block : program_.frozen) {
    scalars.partials[static_cast<std::size_t>(block)].clear();
  }
  scalars.non_finite = false;
  scalars.outcome = Outcome::clip_is_one;
  scalars.inputs.info.grad_scale = 1.f;
}

void Executor::start(int index) {
  const auto k = static_cast<std::size_t>(index);
  machine_.store->start(program_.step[k]);
  started_[k] = true;
}

void Executor::settle() {
  for (const int index : running_on_) {
    const auto k = static_cast<std::size_t>(index);
    if (!started_[k]) {
      continue;
    }
    const Instruction& move = program_.step[k];
    started_[k] = false;
    machine_.store->finish(move);
    if (move.op == Op::fetch) {
      machine_.store->destroy(move.key(), move.tier);
    }
  }
  settled_ = true;
}

/// A transfer that is late is waited for here, and the trace says for which.
void Executor::finish_moves(int index, StepScalars& scalars) {
  for (const int k : waits_[static_cast<std::size_t>(index)]) {
    const auto at = static_cast<std::size_t>(k);
    if (!started_[at]) {
      continue;  // its condition did not hold
    }
    const Instruction& move = program_.step[at];
    const SpanTimer timer(
        scalars.inputs.spans,
        {.kind = Span::Kind::instruction,
         .name = move.op == Op::evict || move.op == Op::save ? "wait for room" : "wait for data",
         .direction = {},
         .block = move.block,
         .micro_batch = move.micro_batch});
    started_[at] = false;
    machine_.store->finish(move);
  }
}

namespace {

/// The numbers of the step before, while they are looked at.
class AsOf {
 public:
  explicit AsOf(StepScalars& scalars) : scalars_(scalars) { exchange(); }
  ~AsOf() { exchange(); }
  AsOf(const AsOf&) = delete;
  AsOf& operator=(const AsOf&) = delete;

 private:
  void exchange() {
    std::swap(scalars_.inputs.info, scalars_.before.info);
    scalars_.block_scales.swap(scalars_.before.block_scales);
  }
  StepScalars& scalars_;
};

}  // namespace

void Executor::run(StepScalars& scalars) {
  bool decided = false;
  Held packs = std::move(packs_);  // a local: an exception releases what it holds
  for (const int index : running_on_) {
    if (settled_ && program_.step[static_cast<std::size_t>(index)].op == Op::fetch) {
      start(index);
    }
  }
  settled_ = running_on_.empty();
  const int count = static_cast<int>(program_.step.size());
  for (int index = 0; index < count; ++index) {
    const auto k = static_cast<std::size_t>(index);
    const Instruction& i = program_.step[k];
    if (observer_) {
      observer_(index);
    }
    finish_moves(index, scalars);
    if (!runs(program_, i, decided, {scalars.before.outcome, scalars.outcome})) {
      continue;
    }
    const SpanTimer timer(scalars.inputs.spans,
                          {.kind = Span::Kind::instruction,
                           .name = to_string(i.op),
                           .direction = {},
                           .block = i.block,
                           .micro_batch = i.micro_batch});
    if (is_move(i.op)) {
      start(index);
      continue;
    }
    const bool store_obeys = i.op == Op::commit || i.op == Op::discard;
    for (const PackKey key : effects_[k].creates) {
      machine_.store->create(key, i.tier);
    }
    for (const Need& need : needs_[k]) {
      packs.add(machine_.store->acquire(need.key, i.tier, need.access));
    }
    const bool updates = i.op == Op::stats || i.op == Op::update;
    if (updates && !decided && puts_off(program_, i.block)) {
      const AsOf before(scalars);
      obey(i, packs, scalars);
    } else {
      obey(i, packs, scalars);
    }
    packs.clear();
    if (!store_obeys) {
      for (const PackKey key : effects_[k].ends) {
        machine_.store->destroy(key, i.tier);
      }
    }
    decided = decided || i.op == Op::decide;
  }
  finish_moves(count, scalars);
  packs_ = std::move(packs);
}

void Executor::obey(const Instruction& i, const Held& packs, StepScalars& scalars) {
  switch (i.op) {
    case Op::begin:
      return begin(scalars);
    case Op::gather:
      return machine_.collectives->gather(i, packs);
    case Op::forward:
      return machine_.blocks->forward(i, packs, scalars);
    case Op::recompute:
      return machine_.blocks->recompute(i, packs, scalars);
    case Op::backward:
      return machine_.blocks->backward(i, packs, scalars);
    case Op::merge:
      return machine_.collectives->merge(i, packs);
    case Op::reduce:
      return machine_.collectives->reduce(i, packs);
    case Op::norm:
      return machine_.updater->norm(i, packs, scalars);
    case Op::decide:
      return i.block < 0 ? machine_.collectives->decide(scalars)
                         : machine_.collectives->decide_block(i.block, scalars);
    case Op::stats:
      machine_.updater->stats(i, packs, scalars);
      return machine_.collectives->fold_stats(scalars);
    case Op::update:
      return machine_.updater->update(i, packs, scalars);
    case Op::commit:
      return machine_.store->commit(i.block, i.tier);
    case Op::discard:
      return machine_.store->discard(i.block, i.tier);
    case Op::publish:
      return machine_.collectives->publish(i, packs);
    case Op::send:
      return machine_.collectives->send(i, packs);
    case Op::recv:
      return machine_.collectives->recv(i, packs);
    case Op::load:
      return machine_.loader->load(i, packs);
    case Op::snapshot:
      return machine_.snapshotter->snapshot(i, packs);
    case Op::fetch:  // the store's, elsewhere
    case Op::evict:
    case Op::save:
    case Op::restore:
    case Op::drop:  // its whole effect is that the pack ends
    case Op::end:
      return;
  }
}

}  // namespace strata
