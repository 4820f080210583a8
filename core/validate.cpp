#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/error.h"
#include "core/program.h"
#include "core/rendezvous.h"
#include "core/replica_check.h"

namespace strata {
namespace {

constexpr std::string_view kOutcomeNames[] = {"clip = 1", "clip < 1", "skip"};

/// The moves that run on into the next step, given how the step comes out.
std::vector<int> running_on(const Program& program, Outcomes outcomes) {
  std::vector<int> moves;
  bool decided = false;
  for (std::size_t k = 0; k < program.step.size(); ++k) {
    const Instruction& i = program.step[k];
    const int at = static_cast<int>(k);
    if (runs_on(i, at) && runs(program, i, decided, outcomes)) {
      moves.push_back(at);
    }
    decided = decided || i.op == Op::decide;
  }
  return moves;
}

/// Follows one rank's program as its decisions come out and remembers what exists and what
/// happened.
class RankCheck {
 public:
  RankCheck(const Program& program, Outcomes outcomes, const std::optional<Budget>& budget)
      : p_(program), outcomes_(outcomes), replicas_(program, budget) {
    blocks_.resize(static_cast<std::size_t>(program.blocks));
    for (Block& b : blocks_) {
      b.next_micro_batch = program.first_micro_batch;
    }
  }

  /// The step begins while these moves of the one before it, or of its own, are under way.
  std::string begin_with(std::span<const int> moves) { return replicas_.begin_with(moves); }

  /// Text of what is wrong at an instruction; empty: fine.
  std::string step(const Instruction& i, int index) {
    if (const std::string wrong = replicas_.complete_moves(index); !wrong.empty()) {
      return wrong;
    }
    if (!decided_ && !p_.lazy && i.when != When::always) {
      return "has a condition before `decide`";
    }
    if (i.block >= p_.blocks) {
      return "names block " + std::to_string(i.block) + " of " + std::to_string(p_.blocks);
    }
    if (!runs(p_, i, decided_, outcomes_)) {
      return {};
    }
    if (is_move(i.op)) {
      return replicas_.start(i, index);
    }
    const Effects e = effects(p_, i, decided_);
    std::string wrong = replicas_.check(i, e);
    if (wrong.empty()) {
      wrong = check_meaning(i);
    }
    if (wrong.empty()) {
      wrong = replicas_.apply(i, e);
      note(i);
    }
    return wrong;
  }

  std::string finish() {
    if (std::string wrong = replicas_.finish(); !wrong.empty()) {
      return wrong;
    }
    if (p_.kind == ProgramKind::flush) {
      return finish_updates();
    }
    return p_.kind == ProgramKind::train ? finish_training() : std::string();
  }

 private:
  struct Block {
    int next_micro_batch = 0;
    std::vector<MicroBatchRange> sums = {};  // partial sums alive, in order
    bool reduced = false, normed = false, decided = false, updated = false, pending = false;
  };

  Block& at(int block) { return blocks_[static_cast<std::size_t>(block)]; }
  const Block& at_const(int block) const { return blocks_[static_cast<std::size_t>(block)]; }

  bool all_contributed(int block) const {
    return blocks_[static_cast<std::size_t>(block)].next_micro_batch == p_.last_micro_batch;
  }

  std::string check_meaning(const Instruction& i) {
    switch (i.op) {
      case Op::forward:
      case Op::recompute:
      case Op::backward:
        return check_compute(i);
      case Op::merge:
        return check_merge(i);
      case Op::reduce:
        return check_reduce(i);
      case Op::norm:
        if (!at(i.block).reduced || at(i.block).normed) {
          return at(i.block).normed ? "takes the norm twice" : "takes the norm before `reduce`";
        }
        return closed_ ? "takes the norm after `decide`" : "";
      case Op::decide:
        return check_decide(i);
      case Op::stats:
      case Op::update:
        return check_update(i);
      case Op::commit:
        return !decided_ ? "commits before `decide`"
               : outcomes_.now != Outcome::clip_is_one
                   ? "commits an update that assumed no clipping"
                   : "";
      case Op::publish:
        return at(i.block).updated ? "" : "publishes weights that were not updated";
      default:
        return {};
    }
  }

  std::string check_compute(const Instruction& i) {
    if (i.micro_batch < p_.first_micro_batch || i.micro_batch >= p_.last_micro_batch) {
      return "names micro-batch " + std::to_string(i.micro_batch) + " of another rank";
    }
    if (at(i.block).updated != late_update_due(i.block)) {
      return at(i.block).updated ? "uses weights after their update"
                                 : "uses weights before the update that was put off";
    }
    const bool contributes =
        p_.kind == ProgramKind::train &&
        (i.op == Op::backward || (i.op == Op::forward && i.block == p_.blocks - 1));
    if (!contributes) {
      return {};
    }
    if (at(i.block).reduced) {
      return "adds to gradients that were reduced";
    }
    if (at(i.block).next_micro_batch != i.micro_batch) {
      return "contributes micro-batch " + std::to_string(i.micro_batch) + " where " +
             std::to_string(at(i.block).next_micro_batch) + " is due: the order fixes the bits";
    }
    const bool begins = i.micro_batch == p_.first_micro_batch || p_.summation == Summation::elastic;
    if (i.sum != (begins ? sum_name(i.micro_batch) : -1) ||
        i.accumulate != (begins ? Accumulate::overwrite : Accumulate::add)) {
      return "adds to another partial sum than the order of summation says";
    }
    return {};
  }

  /// Whether the step before has left an update of the block, which comes before all else.
  bool late_update_due(int block) const {
    return puts_off(p_, block) && outcomes_.before != Outcome::skip;
  }

  int sum_name(int first) const { return first == p_.first_micro_batch ? -1 : first; }

  std::string check_merge(const Instruction& i) const {
    const auto& sums = at_const(i.block).sums;
    for (std::size_t k = 1; k < sums.size(); ++k) {
      if (sums[k].begin == i.from && sum_name(sums[k - 1].begin) == i.sum) {
        const MicroBatchRange node{sums[k - 1].begin, sums[k].end};
        return is_tree_node(node, p_.micro_batches) && tree_split(node) == i.from
                   ? ""
                   : "merges sums that are no node of the tree";
      }
    }
    return "merges sums that are not neighbours";
  }

  std::string check_reduce(const Instruction& i) const {
    if (is_frozen(p_, i.block) && !lends_gradient(p_, i.block)) {
      return "reduces gradients of a frozen block";
    }
    if (blocks_[static_cast<std::size_t>(i.block)].reduced) {
      return "reduces twice";
    }
    if (!all_contributed(i.block)) {
      return "reduces before every micro-batch contributed";
    }
    if (at_const(i.block).sums !=
        partial_sums(p_.summation, {p_.first_micro_batch, p_.last_micro_batch}, p_.micro_batches)) {
      return "reduces before the partial sums are merged";
    }
    for (const Borrow& b : p_.borrows) {
      if (b.owner == i.block && !all_contributed(b.borrower)) {
        return "reduces before borrower block " + std::to_string(b.borrower) + " contributed";
      }
    }
    return {};
  }

  std::string check_decide(const Instruction& i) const {
    if (closed_ || (i.block >= 0 && at_const(i.block).decided)) {
      return "decides twice";
    }
    if (i.block >= 0) {
      return at_const(i.block).normed ? "" : "decides before the norm of its block";
    }
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      if (!blocks_[b].normed && !is_frozen(p_, static_cast<int>(b))) {
        return "decides before the norm of block " + std::to_string(b);
      }
    }
    return {};
  }

  std::string check_update(const Instruction& i) {
    if (puts_off(p_, i.block)) {
      return decided_                    ? "updates with gradients that are to last"
             : at(i.block).updated       ? "updates twice"
             : !late_update_due(i.block) ? "updates in a step that is skipped"
                                         : "";
    }
    if (!at(i.block).reduced) {
      return "updates before `reduce`";
    }
    if (decided_ && !closed_ && !at(i.block).decided) {
      return "updates in place before anything is decided of its block";
    }
    if (decided_ && outcomes_.now == Outcome::skip) {
      return "updates in a step that is skipped";
    }
    if (at(i.block).updated || (i.op == Op::update && at(i.block).pending)) {
      return "updates twice";
    }
    return {};
  }

  void note(const Instruction& i) {
    if (i.op == Op::decide) {
      decided_ = true;
      closed_ = closed_ || i.block < 0;
    }
    if (i.block < 0) {
      return;
    }
    Block& b = at(i.block);
    switch (i.op) {
      case Op::forward:
        if (p_.kind == ProgramKind::train && i.block == p_.blocks - 1) {
          contribute(b, i);
        }
        return;
      case Op::backward:
        contribute(b, i);
        return;
      case Op::merge:
        merge(b, i);
        return;
      case Op::reduce:
        b.reduced = true;
        return;
      case Op::norm:
        b.normed = true;
        return;
      case Op::decide:
        b.decided = true;
        return;
      case Op::update:
        (decided_ || puts_off(p_, i.block) ? b.updated : b.pending) = true;
        return;
      case Op::commit:
        b.pending = false;
        b.updated = true;
        return;
      case Op::discard:
        b.pending = false;
        return;
      default:
        return;
    }
  }

  static void contribute(Block& b, const Instruction& i) {
    ++b.next_micro_batch;
    if (i.accumulate == Accumulate::overwrite) {
      b.sums.push_back({i.micro_batch, i.micro_batch + 1});
    } else {
      b.sums.back().end = i.micro_batch + 1;
    }
  }
  static void merge(Block& b, const Instruction& i) {
    for (std::size_t k = 1; k < b.sums.size(); ++k) {
      if (b.sums[k].begin == i.from) {
        b.sums[k - 1].end = b.sums[k].end;
        b.sums.erase(b.sums.begin() + static_cast<std::ptrdiff_t>(k));
        return;
      }
    }
  }

  std::string finish_training() const {
    if (!closed_) {
      return "no `decide`";
    }
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      if (is_frozen(p_, static_cast<int>(b))) {
        continue;
      }
      const std::string name = "block " + std::to_string(b);
      if (!all_contributed(static_cast<int>(b))) {
        return name + " misses contributions";
      }
    }
    return finish_updates();
  }

  std::string finish_updates() const {
    const bool applied = p_.kind == ProgramKind::train && outcomes_.now != Outcome::skip;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      const int block = static_cast<int>(b);
      const bool due = puts_off(p_, block) ? late_update_due(block) : applied;
      if (!is_frozen(p_, block) && due && !blocks_[b].updated) {
        return "block " + std::to_string(b) + " is never updated";
      }
    }
    return {};
  }

  const Program& p_;
  const Outcomes outcomes_;
  ReplicaCheck replicas_;
  std::vector<Block> blocks_;
  bool decided_ = false, closed_ = false;  // of a block; of the step
};

/// How it came to what is wrong.
std::string when(Outcomes outcomes, bool put_off) {
  const auto name = [](Outcome outcome) {
    return std::string(kOutcomeNames[static_cast<std::size_t>(outcome)]);
  };
  return " (when " + name(outcomes.now) +
         (put_off ? ", the step before: " + name(outcomes.before) : "") + ")";
}

/// A step that begins with moves under way.
std::optional<Diagnosis> check_rank(const Program& program,
                                    int rank,
                                    Outcomes outcomes,
                                    std::span<const int> under_way,
                                    const std::optional<Budget>& budget) {
  RankCheck check(program, outcomes, budget);
  const std::string how = when(outcomes, program.lazy);
  if (const std::string wrong = check.begin_with(under_way); !wrong.empty()) {
    return Diagnosis{rank, 0, wrong + how};
  }
  for (std::size_t k = 0; k < program.step.size(); ++k) {
    if (const std::string wrong = check.step(program.step[k], static_cast<int>(k));
        !wrong.empty()) {
      return Diagnosis{rank,
                       static_cast<int>(k),
                       "(" + std::string(to_string(program.step[k].op)) + ") " + wrong + how};
    }
  }
  if (const std::string wrong = check.finish(); !wrong.empty()) {
    return Diagnosis{rank, -1, wrong + how};
  }
  return std::nullopt;
}

/// The first step of a run, and one after each way in which the step before it may have come out.
std::optional<Diagnosis> check_rank(const Program& program,
                                    int rank,
                                    Outcomes outcomes,
                                    const std::optional<Budget>& budget) {
  std::vector<int> first;
  for (std::size_t k = 0; k < program.step.size(); ++k) {
    const int at = static_cast<int>(k);
    if (program.step[k].op == Op::fetch && runs_on(program.step[k], at)) {
      first.push_back(at);
    }
  }
  std::set<std::vector<int>> beginnings{first};
  for (const Outcome before : {Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip}) {
    if (!program.lazy || before == outcomes.before) {
      for (const Outcome earlier : {Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip}) {
        beginnings.insert(running_on(program, {earlier, before}));
      }
    }
  }
  for (const std::vector<int>& under_way : beginnings) {
    if (auto wrong = check_rank(program, rank, outcomes, under_way, budget)) {
      return wrong;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string to_string(const Diagnosis& d) {
  std::string text = d.rank < 0 ? "" : "rank " + std::to_string(d.rank) + ": ";
  return text + (d.at < 0 ? "" : "instruction " + std::to_string(d.at) + " ") + d.text;
}

std::optional<Diagnosis> validate_alone(const Program& program, std::optional<Budget> budget) {
  for (const Outcomes outcomes : possible_outcomes({&program, 1})) {
    if (const auto wrong = check_rank(program, -1, outcomes, budget)) {
      return wrong;
    }
  }
  return std::nullopt;
}

std::optional<Diagnosis> validate(std::span<const Program> ranks, std::optional<Budget> budget) {
  if (const auto wrong = check_ranges(ranks)) {
    return wrong;
  }
  for (const Outcomes outcomes : possible_outcomes(ranks)) {
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (const auto wrong = check_rank(ranks[r], static_cast<int>(r), outcomes, budget)) {
        return wrong;
      }
    }
    if (auto wrong = check_meetings(ranks, outcomes)) {
      wrong->text += when(outcomes, ranks[0].lazy);
      return wrong;
    }
  }
  return std::nullopt;
}

}  // namespace strata
