#include "core/executor.h"

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

bool moves(Op op) {
  return op == Op::fetch || op == Op::evict || op == Op::save || op == Op::restore;
}

}  // namespace

Executor::Executor(Program program, Machine machine)
    : program_(std::move(program)), machine_(machine) {
  // Every rank its own part; the whole is validated where the programs are made.
  if (const auto wrong = validate_alone(program_)) {
    throw Error(Errc::internal, "program: " + to_string(*wrong));
  }
  bool decided = false;
  for (const Instruction& i : program_.step) {
    effects_.push_back(effects(program_, i, decided));
    needs_.push_back(moves(i.op) || i.op == Op::commit || i.op == Op::discard
                         ? std::vector<PackKey>{}
                         : effects_.back().needs());
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

void Executor::run(StepScalars& scalars) {
  bool decided = false;
  Held packs = std::move(packs_);  // a local: an exception releases what it holds
  for (std::size_t k = 0; k < program_.step.size(); ++k) {
    const Instruction& i = program_.step[k];
    if (observer_) {
      observer_(static_cast<int>(k));
    }
    if (decided && !runs(i.when, scalars.outcome)) {
      continue;
    }
    const SpanTimer timer(scalars.inputs.spans,
                          {.kind = Span::Kind::instruction,
                           .name = to_string(i.op),
                           .direction = {},
                           .block = i.block,
                           .micro_batch = i.micro_batch});
    const bool store_obeys =
        needs_[k].empty() && (moves(i.op) || i.op == Op::commit || i.op == Op::discard);
    if (!store_obeys) {
      for (const PackKey key : effects_[k].creates) {
        machine_.store->create(key);
      }
      for (const PackKey key : needs_[k]) {
        packs.add(machine_.store->acquire(key));
      }
    }
    obey(i, packs, scalars);
    packs.clear();
    if (!store_obeys) {
      for (const PackKey key : effects_[k].ends) {
        machine_.store->destroy(key);
      }
    }
    decided = decided || i.op == Op::decide;
  }
  packs_ = std::move(packs);
}

void Executor::obey(const Instruction& i, const Held& packs, StepScalars& scalars) {
  switch (i.op) {
    case Op::begin:
      return begin(scalars);
    case Op::fetch:
    case Op::evict:
    case Op::save:
    case Op::restore:
      return machine_.store->move(i);
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
      return machine_.store->commit(i.block);
    case Op::discard:
      return machine_.store->discard(i.block);
    case Op::publish:
      return machine_.collectives->publish(i, packs);
    case Op::send:
      return machine_.collectives->send(i, packs);
    case Op::recv:
      return machine_.collectives->recv(i, packs);
    case Op::snapshot:
      return machine_.snapshotter->snapshot(i, packs);
    case Op::drop:  // its whole effect is that the pack ends
    case Op::end:
      return;
  }
}

}  // namespace strata
