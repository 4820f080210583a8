#pragma once
#include <algorithm>
#include <cstdint>
#include <iosfwd>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/pack.h"
#include "core/summation.h"

namespace strata {

enum class Op : std::uint8_t {
  begin,    // data, learning rate and token count of the step
  fetch,    // a copy of a pack from `source` to `tier`; its home keeps the bytes
  evict,    // the copy in `source` ends; unless `clean`, its bytes become those of its home, `tier`
  gather,   // full weights of a block from the ranks' shards
  forward,  // one block, one micro-batch; the last block also runs its backward (the loss needs no
            // replay)
  recompute,  // the activations of a block that were not kept
  backward,   // one block, one micro-batch
  save,       // a pack without a home moves from `source` to `tier`
  restore,    // and back
  drop,       // the bytes of a pack are dead
  merge,      // one partial sum of a block's gradients, borrowed ones too, joins the one before it
  reduce,     // gradients of a block: partial sums and borrowed parts added, summed over ranks
  norm,       // partial sums of squares of a block's reduced gradients, non-finite test
  decide,     // all ranks, one reduction: norm, clip coefficient, skip, loss, stop request; of one
              // block: its norm, coefficient and skip alone
  stats,      // sums over whole tensors that a block's update needs first, folded over ranks
  update,     // weights and state of a block; before `decide` it writes the next generation
  commit,     // the next generation of a block becomes the current one
  discard,    // or is thrown away
  publish,    // updated working weights of a block to the other ranks
  send,       // a boundary or its gradient to a peer (pipelines)
  recv,
  load,      // weights and state of a block from a checkpoint or their beginning
  snapshot,  // weights and state of a block to the checkpointer
  end,
};
std::string_view to_string(Op op);
/// fetch, evict, save, restore: a transfer between tiers that runs beside what follows it.
bool is_move(Op op);

/// How the last `decide` came out; equal on all ranks. Before it, every outcome is still possible;
/// in a lazy program that of the step before is known.
enum class Outcome : std::uint8_t { clip_is_one, clip_below_one, skip };
/// The set of outcomes under which an instruction runs, as bits 1 << Outcome.
enum class When : std::uint8_t {
  clip_is_one = 1,
  clip_below_one = 2,
  applied = 3,  // the step counts
  skipped = 4,
  not_clip_is_one = 6,
  always = 7,
};
inline bool runs(When when, Outcome outcome) {
  return (static_cast<unsigned>(when) >> static_cast<unsigned>(outcome) & 1u) != 0;
}
std::string_view to_string(When when);
/// Of which conditions are, as far as they matter. One for both: steps that go alike.
struct Outcomes {
  Outcome before;  // of the step before: in a lazy program, what stands before `decide`
  Outcome now;     // of this step: what stands after it
  Outcomes(Outcome of_the_step_before, Outcome of_this_one)
      : before(of_the_step_before), now(of_this_one) {}
  Outcomes(Outcome both) : Outcomes(both, both) {}
};

/// Whether a contribution starts an accumulator or adds to it.
enum class Accumulate : std::uint8_t { overwrite, add };

struct Instruction {
  Op op = Op::begin;
  int block = -1;
  int micro_batch = -1;                // global
  PackClass cls = PackClass::weights;  // operand of fetch, evict, save, restore, drop, send, recv
  Accumulate accumulate = Accumulate::add;  // forward of the last block, backward
  int sum =
      -1;  // forward of the last block, backward, merge: PackKey::micro_batch of the gradients
  int from = -1;  // merge: the partial sum that joins `sum`
  When when = When::always;
  Tier tier = {};    // where it runs and finds its packs; of a move: the destination
  Tier source = {};  // of a move
  /// Of a move: the index of the first instruction that needs the bytes at the destination, or the
  /// room at the source; it waits for the transfer. -1: the next one. Not behind the move: that of
  /// the next step, into which it runs on.
  int needed_by = -1;
  bool clean = false;        // evict: the home has the same bytes, nothing is copied
  std::int64_t offset = -1;  // of a move: where the destination lies; -1: at the pack's own place
  int peer = -1;             // send, recv
  int phase = 0;             // stats: which; update: how many came before
  PackKey key() const { return {cls, block, micro_batch}; }
};

/// The instruction that waits for a move that stands at index `at`.
inline int due(const Instruction& move, int at) {
  return move.needed_by < 0 ? at + 1 : move.needed_by;
}
/// Whether that is one of the next step: a fetch or evict of a training program, which is a loop.
/// Where the step before has started none, a fetch starts with the program.
inline bool runs_on(const Instruction& move, int at) {
  return is_move(move.op) && !move.clean && move.needed_by >= 0 && move.needed_by <= at;
}

/// Block `borrower` uses (and has gradient for) a parameter of block `owner`.
struct Borrow {
  int borrower = 0, owner = 0;
  friend bool operator==(const Borrow&, const Borrow&) = default;
};

/// inference leaves the logits of its micro-batch in the resident pack {boundary, blocks, 0}.
/// flush: the updates that a lazy program has put off, alone.
enum class ProgramKind : std::uint8_t { train, evaluate, inference, snapshot, load, flush };

/// The order of one rank, as data. Static: written before the run, never changed by it.
struct Program {
  ProgramKind kind = ProgramKind::train;
  int blocks = 0;             // block 0 embeds, block blocks-1 is the loss
  int first_micro_batch = 0;  // this rank's contiguous range of the step's micro-batches
  int last_micro_batch = 0;   // one past
  int micro_batches = 0;      // of the step, all ranks together
  Summation summation = Summation::run;
  /// The step begins with updates of the one before it, which has put them off: gradients of those
  /// blocks last from step to step, and conditions before `decide` are of that step's outcome.
  bool lazy = false;
  /// Blocks of a lazy program whose updates are not put off, ascending: they have a next generation
  /// before `decide`.
  std::vector<int> speculated;
  std::vector<Borrow> borrows;
  std::vector<int> frozen;   // blocks that do not train, ascending: no gradient, no update
  std::vector<int> in_turn;  // blocks that have a turn_state pack, ascending
  // Before the first and after the last instruction:
  std::vector<PackKey> residents;  // packs whose bytes are in the device
  std::vector<Replica> homes;      // the others that last, and where their bytes are; by key
  std::vector<Instruction> step;
};
inline bool is_frozen(const Program& program, int block) {
  return std::binary_search(program.frozen.begin(), program.frozen.end(), block);
}
inline bool has_turn(const Program& program, int block) {
  return std::binary_search(program.in_turn.begin(), program.in_turn.end(), block);
}
/// Whether the update of a block waits for the next program of those that are lazy.
bool puts_off(const Program& program, int block);
/// `decided`: whether a `decide` came before.
bool runs(const Program& program, const Instruction& instruction, bool decided, Outcomes outcomes);
/// Every pair of outcomes that makes a difference to the programs of all ranks of one step.
std::vector<Outcomes> possible_outcomes(std::span<const Program> ranks);
/// Where the bytes of a pack are between steps, if not in the device.
std::optional<Tier> home_of(const Program& program, PackKey key);
/// Whether a block adds to the gradient of one that it borrows from.
bool lends_gradient(const Program& program, int block);
/// The lowest block that trains: backward ends there, and what is below keeps nothing for it.
int lowest_trained(const Program& program);
/// One instruction a line, numbered: what `plan --program` prints.
std::ostream& operator<<(std::ostream& out, const Program& program);

/// The one table of meaning. Validator, executor, planner and simulator all read it and nothing
/// else. `needs` is what must be resident in Instruction::tier; the other sets say what happens to
/// data and are part of `needs`. A move creates at its destination when it starts, and ends at its
/// source what leaves it when it is complete.
struct Effects {
  std::vector<PackKey> reads;    // must hold data
  std::vector<PackKey> writes;   // changed in place; must hold data
  std::vector<PackKey> adds_to;  // gradient accumulators; must exist unless created here
  std::vector<PackKey> creates;  // begin to exist here
  std::vector<PackKey> ends;     // dead after this instruction
  std::vector<PackKey> needs() const;
};
/// `decided`: whether a `decide` came before; an update before it is speculative, unless it was put
/// off by the step before.
Effects effects(const Program& program, const Instruction& instruction, bool decided);

/// The names (PackKey::micro_batch) of the partial sums that a rank brings to `reduce`: the first
/// is -1, those behind it are named by their first micro-batch. More than one only in
/// Summation::elastic.
std::vector<int> sum_names(const Program& program);

/// What is wrong with a program. `rank` and `at` say where (-1: at the end, or about all).
struct Diagnosis {
  int rank = -1;
  int at = -1;
  std::string text;
};
std::string to_string(const Diagnosis& diagnosis);

/// The bytes of a replica are there from instruction `begin` up to `end`; of what lies at both ends
/// of the loop there are two. `by`: the index of the move that brought it, if one did; -1: a pack's
/// own place.
struct Holding {
  Replica replica;
  int begin = 0, end = 0;
  int by = -1;
};
/// What is where in a valid program, however its decisions come out. Residents and homes are held
/// throughout.
std::vector<Holding> holdings(const Program& program, Outcomes outcomes);

/// Bytes of each pack and the budgets of tiers, used by validate when given; a tier that is absent
/// has no limit.
struct Budget {
  const PackSizes* sizes = nullptr;
  std::map<Tier, std::int64_t> tier_bytes = {};
};

/// Checks the programs of all ranks of one step at once, under every outcome of `decide` and, where
/// updates were put off or transfers run on, of the step before: every use has its data, nothing is
/// left over, each
/// micro-batch contributes once and in order, norms precede the decision, each block is updated
/// exactly once (never on skip), the ranks' collectives agree in order, sends meet receives, and,
/// with a budget, resident bytes stay within it at every point.
std::optional<Diagnosis> validate(std::span<const Program> ranks,
                                  std::optional<Budget> budget = std::nullopt);
/// One rank's part alone: all of the above but what ranks owe one another.
std::optional<Diagnosis> validate_alone(const Program& program,
                                        std::optional<Budget> budget = std::nullopt);

}  // namespace strata
