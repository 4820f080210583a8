#include "core/program.h"

#include <algorithm>
#include <ostream>
#include <string>

#include "core/error.h"

namespace strata {

std::string_view to_string(Op op) {
  constexpr std::string_view names[] = {
      "begin",   "fetch",   "evict",   "gather", "forward", "recompute", "backward", "save",
      "restore", "drop",    "merge",   "reduce", "norm",    "decide",    "stats",    "update",
      "commit",  "discard", "publish", "send",   "recv",    "load",      "snapshot", "end"};
  static_assert(std::size(names) == static_cast<std::size_t>(Op::end) + 1);
  return names[static_cast<std::size_t>(op)];
}

bool is_move(Op op) {
  return op == Op::fetch || op == Op::evict || op == Op::save || op == Op::restore;
}

std::string_view to_string(When when) {
  switch (when) {
    case When::clip_is_one:
      return "clip = 1";
    case When::clip_below_one:
      return "clip < 1";
    case When::applied:
      return "not skipped";
    case When::skipped:
      return "skipped";
    case When::not_clip_is_one:
      return "clip < 1 or skipped";
    case When::always:
      return "always";
  }
  return "?";
}

namespace {

bool names_pack(Op op) {
  return is_move(op) || op == Op::drop || op == Op::send || op == Op::recv;
}

void print(std::ostream& out, const Instruction& i, int index) {
  out << to_string(i.op);
  if (names_pack(i.op)) {
    out << ' ' << to_string(i.key());
  } else if (i.block >= 0) {
    out << " block " << i.block;
    if (i.micro_batch >= 0) {
      out << " mb " << i.micro_batch;
    }
  }
  if (is_move(i.op)) {
    out << ' ' << to_string(i.source) << " -> " << to_string(i.tier) << (i.clean ? ", clean" : "");
  } else if (i.tier != Tier()) {
    out << " in " << to_string(i.tier);
  }
  if (i.needed_by >= 0) {
    out << " by " << i.needed_by << (runs_on(i, index) ? " of the next step" : "");
  }
  if (i.op == Op::merge) {
    out << " sum " << i.from << " into " << (i.sum < 0 ? "the first" : std::to_string(i.sum));
  }
  if (i.op == Op::stats) {
    out << " phase " << i.phase;
  }
  if (i.peer >= 0) {
    out << (i.op == Op::send ? " to " : " from ") << i.peer;
  }
  if ((i.op == Op::backward || i.op == Op::forward) && i.accumulate == Accumulate::overwrite) {
    out << " (first)";
  }
  if (i.when != When::always) {
    out << " when " << to_string(i.when);
  }
}

/// Appends to the sets of one Effects; keeps the table below readable.
struct Table {
  const Program& program;
  Effects e;

  PackKey key(PackClass cls, int block, int micro_batch = -1) const {
    return {cls, block, micro_batch};
  }
  void read_weights(int block) {
    e.reads.push_back({PackClass::weights, block});
    for (const Borrow& b : program.borrows) {
      if (b.borrower == block) {
        e.reads.push_back({PackClass::weights, b.owner});
      }
    }
  }
  void add_to_grads(const Instruction& i) {
    const auto contribute = [&](PackKey k) {
      e.adds_to.push_back(k);
      const bool in_place = puts_off(program, i.block) && k == PackKey{PackClass::grads, i.block} &&
                            home_of(program, k).value_or(Tier()) == i.tier;
      if (i.accumulate == Accumulate::overwrite && !in_place) {
        e.creates.push_back(k);
      }
    };
    if (!is_frozen(program, i.block)) {
      contribute({PackClass::grads, i.block, i.sum});
    }
    if (lends_gradient(program, i.block)) {
      contribute({PackClass::borrowed_grads, i.block, i.sum});
    }
  }
  bool makes_input_grad(int block) const { return block > lowest_trained(program); }
  /// The partial sum `from` of the block is added to `to` and dies.
  void join_sums(int block, int to, int from) {
    for (const PackClass cls : {PackClass::grads, PackClass::borrowed_grads}) {
      const bool has =
          cls == PackClass::grads ? !is_frozen(program, block) : lends_gradient(program, block);
      if (has) {
        e.writes.push_back({cls, block, to});
        e.reads.push_back({cls, block, from});
        e.ends.push_back({cls, block, from});
      }
    }
  }
  void use_workspace() { e.writes.push_back({PackClass::workspace}); }
};

void forward_effects(Table& t, const Instruction& i) {
  using enum PackClass;
  const bool last = i.block == t.program.blocks - 1;
  const bool train = t.program.kind == ProgramKind::train;
  t.read_weights(i.block);
  if (last) {  // logits need far more than the rest of a step: not for longer than they are there
    t.e.creates.push_back({workspace, i.block});
    t.e.ends.push_back({workspace, i.block});
  } else {
    t.use_workspace();
  }
  if (i.block > 0) {
    t.e.reads.push_back({boundary, i.block, i.micro_batch});
  }
  const bool backward = train && i.block >= lowest_trained(t.program);
  if (backward) {
    t.e.creates.push_back({saved, i.block, i.micro_batch});
  }
  if (!last) {
    t.e.creates.push_back({boundary, i.block + 1, i.micro_batch});
  }
  if (last && t.program.kind == ProgramKind::inference) {
    t.e.writes.push_back({boundary, t.program.blocks, i.micro_batch});
  }
  if (i.block > 0 && (last || !backward)) {
    t.e.ends.push_back({boundary, i.block, i.micro_batch});
  }
  if (last && train) {  // the loss: forward and backward at once
    t.add_to_grads(i);
    if (t.makes_input_grad(i.block)) {
      t.e.creates.push_back({boundary_grad, i.block, i.micro_batch});
    }
    t.e.ends.push_back({saved, i.block, i.micro_batch});
  }
}

void backward_effects(Table& t, const Instruction& i) {
  using enum PackClass;
  t.read_weights(i.block);
  t.use_workspace();
  t.add_to_grads(i);
  for (const PackKey k : {PackKey{saved, i.block, i.micro_batch},
                          PackKey{boundary_grad, i.block + 1, i.micro_batch}}) {
    t.e.reads.push_back(k);
    t.e.ends.push_back(k);
  }
  if (i.block > 0) {
    t.e.reads.push_back({boundary, i.block, i.micro_batch});
    t.e.ends.push_back({boundary, i.block, i.micro_batch});
  }
  if (t.makes_input_grad(i.block)) {
    t.e.creates.push_back({boundary_grad, i.block, i.micro_batch});
  }
}

/// In Summation::run borrowed gradients join their owner's before ranks are summed; along a tree
/// each has a sum of its own, so that neither depends on who computed what.
void reduce_effects(Table& t, const Instruction& i) {
  using enum PackClass;
  if (!is_frozen(t.program, i.block)) {
    t.e.writes.push_back({grads, i.block});
  }
  if (t.program.summation == Summation::elastic) {
    if (lends_gradient(t.program, i.block)) {
      t.e.writes.push_back({borrowed_grads, i.block});
    }
    for (const int sum : sum_names(t.program)) {
      if (sum >= 0) {
        t.join_sums(i.block, -1, sum);
      }
    }
  }
  for (const Borrow& b : t.program.borrows) {
    if (b.owner == i.block && !is_frozen(t.program, b.owner)) {
      t.e.reads.push_back({borrowed_grads, b.borrower});
      t.e.ends.push_back({borrowed_grads, b.borrower});
    }
  }
}

/// stats and update: in place once `decide` is known, of this step or of the one that has put them
/// off, else into the next generation, which the first of them brings into being.
void update_effects(Table& t, const Instruction& i, bool in_place) {
  using enum PackClass;
  t.e.reads.push_back({grads, i.block});
  t.use_workspace();
  auto& changed = in_place ? t.e.writes : i.phase == 0 ? t.e.creates : t.e.writes;
  if (!in_place) {
    t.e.reads.push_back({weights, i.block});
    t.e.reads.push_back({state, i.block});
  }
  changed.push_back({in_place ? weights : weights_next, i.block});
  changed.push_back({in_place ? state : state_next, i.block});
  if (has_turn(t.program, i.block)) {
    if (!in_place) {
      t.e.reads.push_back({turn_state, i.block});
    }
    changed.push_back({in_place ? turn_state : turn_state_next, i.block});
  }
}

/// The next generation of a block, or, `current`, the one that it replaces.
void add_generation(const Table& t, int block, bool current, std::vector<PackKey>& to) {
  using enum PackClass;
  to.push_back({current ? weights : weights_next, block});
  to.push_back({current ? state : state_next, block});
  if (has_turn(t.program, block)) {
    to.push_back({current ? turn_state : turn_state_next, block});
  }
}

/// A copy that is not its home begins here; where the bytes last, they are filled in place.
void load_effects(Table& t, const Instruction& i) {
  std::vector<PackKey> loaded;
  add_generation(t, i.block, true, loaded);
  for (const PackKey key : loaded) {
    const bool in_place = home_of(t.program, key).value_or(Tier()) == i.tier;
    (in_place ? t.e.writes : t.e.creates).push_back(key);
  }
}

}  // namespace

bool puts_off(const Program& program, int block) {
  return program.lazy && !is_frozen(program, block) &&
         !std::binary_search(program.speculated.begin(), program.speculated.end(), block);
}

bool runs(const Program& program, const Instruction& i, bool decided, Outcomes outcomes) {
  return decided ? runs(i.when, outcomes.now) : !program.lazy || runs(i.when, outcomes.before);
}

std::vector<Outcomes> possible_outcomes(std::span<const Program> ranks) {
  const std::vector all{Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip};
  const auto any = [&](auto holds) { return std::any_of(ranks.begin(), ranks.end(), holds); };
  const bool put_off = any([](const Program& p) { return p.lazy; });
  // Where all updates are put off, nothing depends on how the step itself comes out.
  const bool applied = any([](const Program& p) {
    const auto decide = std::find_if(
        p.step.begin(), p.step.end(), [](const Instruction& i) { return i.op == Op::decide; });
    return !p.lazy || !p.speculated.empty() ||
           std::any_of(
               decide, p.step.end(), [](const Instruction& i) { return i.when != When::always; });
  });
  std::vector<Outcomes> pairs;
  for (const Outcome before : put_off ? all : std::vector{Outcome::clip_is_one}) {
    for (const Outcome now : applied ? all : std::vector{Outcome::clip_is_one}) {
      pairs.emplace_back(before, now);
    }
  }
  return pairs;
}

std::optional<Tier> home_of(const Program& program, PackKey key) {
  const auto at = std::ranges::lower_bound(program.homes, key, {}, &Replica::key);
  return at != program.homes.end() && at->key == key ? std::optional(at->tier) : std::nullopt;
}

std::ostream& operator<<(std::ostream& out, const Program& program) {
  int index = 0;
  for (const Instruction& i : program.step) {
    out << index << ": ";
    print(out, i, index++);
    out << '\n';
  }
  return out;
}

bool lends_gradient(const Program& program, int block) {
  return std::any_of(program.borrows.begin(), program.borrows.end(), [&](const Borrow& b) {
    return b.borrower == block && !is_frozen(program, b.owner);
  });
}

int lowest_trained(const Program& program) {
  int lowest = 0;
  while (lowest < program.blocks - 1 && is_frozen(program, lowest)) {
    ++lowest;
  }
  return lowest;
}

std::vector<int> sum_names(const Program& program) {
  std::vector<int> names;
  for (const MicroBatchRange sum :
       partial_sums(program.summation,
                    {program.first_micro_batch, program.last_micro_batch},
                    program.micro_batches)) {
    names.push_back(names.empty() ? -1 : sum.begin);
  }
  return names;
}

std::vector<PackKey> Effects::needs() const {
  std::vector<PackKey> all;
  for (const auto* set : {&reads, &writes, &adds_to, &creates}) {
    all.insert(all.end(), set->begin(), set->end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

Effects effects(const Program& program, const Instruction& i, bool decided) {
  using enum PackClass;
  Table t{program, {}};
  switch (i.op) {
    case Op::begin:
    case Op::decide:
    case Op::end:
      break;
    case Op::fetch:
    case Op::save:
    case Op::restore:
    case Op::recv:
      t.e.creates = {i.key()};
      break;
    case Op::evict:
      break;
    case Op::drop:
      t.e.ends = {i.key()};
      break;
    case Op::send:
      t.e.reads = {i.key()};
      t.e.ends = {i.key()};
      break;
    case Op::gather:
    case Op::publish:
      t.e.writes = {{weights, i.block}};
      break;
    case Op::forward:
      forward_effects(t, i);
      break;
    case Op::recompute:
      t.read_weights(i.block);
      t.use_workspace();
      if (i.block > 0) {
        t.e.reads.push_back({boundary, i.block, i.micro_batch});
      }
      t.e.creates = {{saved, i.block, i.micro_batch}};
      break;
    case Op::backward:
      backward_effects(t, i);
      break;
    case Op::merge:
      t.join_sums(i.block, i.sum, i.from);
      break;
    case Op::reduce:
      reduce_effects(t, i);
      break;
    case Op::norm:
      t.e.reads = {{grads, i.block}};
      break;
    case Op::stats:
    case Op::update:
      update_effects(t, i, decided || puts_off(program, i.block));
      break;
    case Op::commit:
      add_generation(t, i.block, true, t.e.writes);
      add_generation(t, i.block, false, t.e.ends);
      break;
    case Op::discard:
      add_generation(t, i.block, false, t.e.ends);
      break;
    case Op::load:
      load_effects(t, i);
      break;
    case Op::snapshot:
      add_generation(t, i.block, true, t.e.reads);
      break;
  }
  return t.e;
}

namespace {

/// Follows a program and notes when the bytes of replicas begin and end.
class HoldingWriter {
 public:
  explicit HoldingWriter(const Program& program) {
    for (const PackKey key : program.residents) {
      open_[{key}] = {};
    }
    for (const Replica& home : program.homes) {
      open_[home] = {};
    }
  }
  void begin(const Replica& replica, int at, int by) { open_.try_emplace(replica, Open{at, by}); }
  void end(const Replica& replica, int at) {
    if (const auto held = open_.find(replica); held != open_.end()) {
      done_.push_back({replica, held->second.begin, at, held->second.by});
      open_.erase(held);
    }
  }
  /// Also from the beginning up to `at`, in the next step.
  void end_of_next(const Replica& replica, int at) {
    if (const auto held = open_.find(replica); held != open_.end()) {
      done_.push_back({replica, 0, at, held->second.by});
    }
  }
  std::vector<Holding> finish(int at) {
    while (!open_.empty()) {
      end(open_.begin()->first, at);
    }
    return std::move(done_);
  }

 private:
  struct Open {
    int begin = 0, by = -1;
  };
  std::map<Replica, Open> open_;
  std::vector<Holding> done_;
};

}  // namespace

std::vector<Holding> holdings(const Program& program, Outcomes outcomes) {
  HoldingWriter all(program);
  std::multimap<int, Replica> leaving;  // by the instruction that needs the room
  const int count = static_cast<int>(program.step.size());
  for (int k = 0; k < count; ++k) {
    const Instruction& i = program.step[static_cast<std::size_t>(k)];
    if (i.op == Op::fetch && runs_on(i, k)) {
      all.begin({i.key(), i.tier}, 0, k);
    }
  }
  bool decided = false;
  for (int k = 0; k < count; ++k) {
    for (auto at = leaving.begin(); at != leaving.end() && at->first <= k; at = leaving.erase(at)) {
      all.end(at->second, at->first);
    }
    const Instruction& i = program.step[static_cast<std::size_t>(k)];
    if (!runs(program, i, decided, outcomes)) {
      continue;
    }
    const Effects e = effects(program, i, decided);
    for (const PackKey key : e.creates) {
      all.begin({key, i.tier}, k, is_move(i.op) ? k : -1);
    }
    if (is_move(i.op)) {
      if (i.op != Op::fetch) {
        leaving.emplace(i.clean         ? k + 1
                        : runs_on(i, k) ? count + due(i, k)
                                        : due(i, k),
                        Replica{i.key(), i.source});
      }
    } else {
      for (const PackKey key : e.ends) {
        all.end({key, i.tier}, k + 1);
      }
    }
    decided = decided || i.op == Op::decide;
  }
  for (const auto& [at, replica] : leaving) {
    if (at > count) {
      all.end_of_next(replica, at - count);
    }
    all.end(replica, std::min(at, count));
  }
  return all.finish(count);
}

}  // namespace strata
