#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/batch.h"
#include "core/pack.h"
#include "core/program.h"
#include "core/span_log.h"

namespace strata {

/// Of which gradients the norm is limited: of all together, or of each block by itself.
enum class ClipScope : std::uint8_t { global, pack };

/// What `begin` brings: the data and the numbers of one step. Filled by launch before the program
/// runs.
struct StepInputs {
  StepInfo info;
  std::span<const MicroBatch> batches;  // this rank's, in order; batches[0] is `first_micro_batch`
  std::int64_t loss_tokens = 0;         // unmasked targets of the whole step, all ranks
  double clip = 0.0;                    // limit of a norm; 0: none
  ClipScope clip_scope = ClipScope::global;
  SpanLog* spans = nullptr;  // where the step leaves its times; absent: nowhere
};

/// The named scalars of `begin` and `decide`: all that outlives an instruction besides packs.
struct StepScalars {
  StepInputs inputs;
  std::vector<double> loss_sums;              // by this rank's micro-batches, nats, not divided
  std::vector<std::vector<double>> partials;  // by block: sums of squares of 4096-element chunks
  // Of the update under way: one slot per shard in global order, filled by its owner, zero
  // elsewhere, so that the sum over ranks is exact and the fold over slots has one order.
  std::vector<double> stats;
  /// By block, where they were decided one by one: sums of squares; -1: not yet.
  std::vector<double> block_squares;
  std::vector<float> block_scales;  // clip coefficients by block, ClipScope::pack; else empty
  /// In a lazy program: of the step that has put updates off. After a skipped one, or none: skip.
  struct Before {
    Outcome outcome = Outcome::skip;
    StepInfo info;  // with the grad_scale that it decided
    std::vector<float> block_scales;
  } before;
  bool non_finite = false;
  bool stop_requested = false;  // in: this rank's wish; out of decide: everyone's
  // Written by decide, equal on all ranks.
  Outcome outcome = Outcome::clip_is_one;
  double loss = 0.0;  // mean over the step's unmasked tokens
  double grad_norm = 0.0;
};

/// The packs that one instruction may touch, resident while it runs.
class Held {
 public:
  void clear() { leases_.clear(); }
  void add(Lease lease) { leases_.push_back(std::move(lease)); }
  bool contains(PackKey key) const;
  /// Throws internal when the instruction's effects do not name the pack: no hidden state.
  std::span<std::byte> operator[](PackKey key) const;

 private:
  std::vector<Lease> leases_;
};

// Who obeys an instruction: small interfaces, implemented by the rooms, tied together in
// launch.

/// forward, recompute, backward. Implemented by models.
class BlockRunner {
 public:
  virtual ~BlockRunner() = default;
  virtual void forward(const Instruction& instruction, const Held& packs, StepScalars& scalars) = 0;
  virtual void recompute(const Instruction& instruction,
                         const Held& packs,
                         StepScalars& scalars) = 0;
  virtual void backward(const Instruction& instruction,
                        const Held& packs,
                        StepScalars& scalars) = 0;
};

/// gather, merge, reduce, decide, the fold of stats, publish, send, recv. Implemented by parallel.
class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual void gather(const Instruction& instruction, const Held& packs) = 0;
  virtual void merge(const Instruction& instruction, const Held& packs) = 0;
  virtual void reduce(const Instruction& instruction, const Held& packs) = 0;
  /// Folds losses, norm partials, non-finite and stop flags of all ranks; sets the outcome.
  virtual void decide(StepScalars& scalars) = 0;
  /// The same of one block, before the others are known; `decide` comes after the last of them.
  virtual void decide_block(int block, StepScalars& scalars) = 0;
  /// scalars.stats of all ranks, added slot by slot.
  virtual void fold_stats(StepScalars& scalars) = 0;
  virtual void publish(const Instruction& instruction, const Held& packs) = 0;
  virtual void send(const Instruction& instruction, const Held& packs) = 0;
  virtual void recv(const Instruction& instruction, const Held& packs) = 0;
};

/// norm, update. Implemented by optim. `weights` and `state` of the update may be the next
/// generation.
class Updater {
 public:
  virtual ~Updater() = default;
  virtual void norm(const Instruction& instruction, const Held& packs, StepScalars& scalars) = 0;
  virtual void stats(const Instruction& instruction, const Held& packs, StepScalars& scalars) = 0;
  virtual void update(const Instruction& instruction, const Held& packs, StepScalars& scalars) = 0;
};

/// snapshot. Implemented by checkpoint.
class Snapshotter {
 public:
  virtual ~Snapshotter() = default;
  virtual void snapshot(const Instruction& instruction, const Held& packs) = 0;
};

/// load. Implemented in launch, from a checkpoint or from nothing.
class Loader {
 public:
  virtual ~Loader() = default;
  virtual void load(const Instruction& instruction, const Held& packs) = 0;
};

struct Machine {
  PackStore* store = nullptr;
  BlockRunner* blocks = nullptr;
  Collectives* collectives = nullptr;
  Updater* updater = nullptr;
  Snapshotter* snapshotter = nullptr;
  Loader* loader = nullptr;
};

/// Runs a program: for each instruction whose `when` allows it, brings its packs into being, leases
/// what effects() names, hands it to the room that obeys it, and ends what is dead. Transfers may
/// run on into its next run; before another program runs over the same packs, `settle`.
class Executor {
 public:
  /// Validates the program alone (a rank's own part); effects are computed once, here.
  Executor(Program program, Machine machine);
  /// `scalars.inputs` is read by `begin`; results are in `scalars` afterwards.
  void run(StepScalars& scalars);
  /// Waits for what runs on and gives back what it brought: packs are where programs begin.
  void settle();
  const Program& program() const { return program_; }
  /// Called before each instruction with its index: fault points of tests, traces.
  void on_instruction(std::function<void(int)> observer) { observer_ = std::move(observer); }

 private:
  void begin(StepScalars& scalars) const;
  void start(int index);
  void finish_moves(int index, StepScalars& scalars);
  void obey(const Instruction& instruction, const Held& packs, StepScalars& scalars);
  Program program_;
  Machine machine_;
  std::vector<Effects> effects_;
  struct Need {
    PackKey key;
    Access access;
  };
  std::vector<std::vector<Need>> needs_;
  std::vector<std::vector<int>> waits_;  // by instruction: the moves that it waits for
  std::vector<bool> started_;            // by instruction: a move that is under way
  std::vector<int> running_on_;          // the moves that run on into the next run
  bool settled_ = true;                  // none of them is under way
  Held packs_;  // empty between instructions: kept for its memory, so that a step allocates nothing
  std::function<void(int)> observer_;
};

}  // namespace strata
