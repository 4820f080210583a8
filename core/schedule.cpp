#include "core/schedule.h"

#include <algorithm>

#include "core/error.h"
#include "core/summation.h"

namespace strata {
namespace {

/// Appends instructions; knows the shape, so that the orders below read as orders.
class ProgramWriter {
 public:
  ProgramWriter(const StepShape& shape, ProgramKind kind) : shape_(shape) {
    STRATA_ASSERT(shape.blocks >= 2 && shape.rank >= 0 && shape.rank < shape.world);
    const MicroBatchRange mine = micro_batch_range(shape.rank, shape.world, shape.micro_batches);
    STRATA_ASSERT(kind == ProgramKind::snapshot || kind == ProgramKind::load ||
                  mine.begin < mine.end);
    program_.kind = kind;
    program_.blocks = shape.blocks;
    program_.first_micro_batch = mine.begin;
    program_.last_micro_batch = mine.end;
    program_.micro_batches = shape.micro_batches;
    program_.summation = shape.summation;
    program_.borrows = shape.borrows;
    program_.frozen = shape.frozen;
    program_.in_turn = shape.in_turn;
    program_.lazy = shape.lazy && (kind == ProgramKind::train || kind == ProgramKind::flush);
    if (program_.lazy) {
      program_.speculated = shape.speculated;
    }
    lowest_ = lowest_trained(program_);
    STRATA_ASSERT(static_cast<int>(shape.frozen.size()) < shape.blocks);
    for (int b = 0; b < shape.blocks; ++b) {
      program_.residents.push_back({PackClass::weights, b});
      if (kind != ProgramKind::inference) {
        program_.residents.push_back({PackClass::state, b});
      }
    }
    for (const int b : kind == ProgramKind::inference ? std::vector<int>{} : shape.in_turn) {
      program_.residents.push_back({PackClass::turn_state, b});
    }
    for (int b = lowest_; kind != ProgramKind::inference && b < shape.blocks; ++b) {
      if (puts_off(b)) {
        program_.residents.push_back({PackClass::grads, b});
      }
    }
    program_.residents.push_back({PackClass::workspace});
    if (kind == ProgramKind::inference) {
      program_.residents.push_back({PackClass::boundary, shape.blocks, 0});
    }
    add({.op = Op::begin});
  }

  int last() const { return shape_.blocks - 1; }
  /// Where backward ends.
  int lowest() const { return lowest_; }
  bool trains(int block) const { return !is_frozen(program_, block); }
  bool puts_off(int block) const {
    return shape_.lazy && trains(block) && !std::ranges::binary_search(shape_.speculated, block);
  }
  bool speculates(int block, UpdateMode mode) const {
    return mode == UpdateMode::speculative || (mode == UpdateMode::hybrid && !puts_off(block));
  }
  int first_mb() const { return program_.first_micro_batch; }
  int end_mb() const { return program_.last_micro_batch; }
  bool recomputed(int block) const {
    return std::find(shape_.recomputed.begin(), shape_.recomputed.end(), block) !=
           shape_.recomputed.end();
  }
  void add(Instruction i) { program_.step.push_back(i); }

  void forward(int block, int mb) {
    add(contribution(Op::forward, block, mb));
    if (program_.kind == ProgramKind::train && block < last() && block >= lowest() &&
        recomputed(block)) {
      add({.op = Op::drop, .block = block, .micro_batch = mb, .cls = PackClass::saved});
    }
    if (program_.kind == ProgramKind::train && block == last()) {
      merge_sums(block, mb);
    }
  }
  void backward(int block, int mb) {
    if (recomputed(block)) {
      add({.op = Op::recompute, .block = block, .micro_batch = mb});
    }
    add(contribution(Op::backward, block, mb));
    merge_sums(block, mb);
  }
  /// After the block's last contribution.
  void gradient_complete(int block, UpdateMode update_mode) {
    const bool summed_apart =
        shape_.summation == Summation::elastic && lends_gradient(program_, block);
    if (!trains(block)) {
      return summed_apart ? add({.op = Op::reduce, .block = block}) : void();
    }
    add({.op = Op::reduce, .block = block});
    add({.op = Op::norm, .block = block});
    if (speculates(block, update_mode)) {
      update(block, When::always);
    } else if (update_mode == UpdateMode::immediate) {
      add({.op = Op::decide, .block = block});
      update(block, When::applied);
      add({.op = Op::drop, .block = block, .cls = PackClass::grads});
    }
  }
  void update(int block, When when) {
    for (int phase = 0; phase < shape_.stat_phases; ++phase) {
      add({.op = Op::stats, .block = block, .when = when, .phase = phase});
    }
    add({.op = Op::update, .block = block, .when = when, .phase = shape_.stat_phases});
  }
  /// What the step before has put off.
  void update_late(int block) {
    if (puts_off(block)) {
      update(block, When::applied);
      if (shape_.world > 1) {
        add({.op = Op::publish, .block = block, .when = When::applied});
      }
    }
  }
  void decide_and_apply(UpdateMode update_mode) {
    add({.op = Op::decide});
    for (int b = lowest(); b <= last(); ++b) {
      if (!trains(b) || puts_off(b) || update_mode == UpdateMode::immediate) {
        continue;
      }
      if (speculates(b, update_mode)) {
        add({.op = Op::commit, .block = b, .when = When::clip_is_one});
        add({.op = Op::discard, .block = b, .when = When::not_clip_is_one});
        update(b, When::clip_below_one);
      } else {
        update(b, When::applied);
      }
      add({.op = Op::drop, .block = b, .cls = PackClass::grads});
    }
    for (int b = 0; shape_.world > 1 && b <= last(); ++b) {
      if (trains(b) && !puts_off(b)) {
        add({.op = Op::publish, .block = b, .when = When::applied});
      }
    }
  }
  Program finish() {
    add({.op = Op::end});
    return std::move(program_);
  }

 private:
  /// In order, the first contribution begins the sum; along the tree each begins one of its own.
  Instruction contribution(Op op, int block, int mb) const {
    const bool begins = mb == first_mb() || shape_.summation == Summation::elastic;
    return {.op = op,
            .block = block,
            .micro_batch = mb,
            .accumulate = begins ? Accumulate::overwrite : Accumulate::add,
            .sum = begins ? name_of_sum(mb) : -1};
  }
  void merge_sums(int block, int mb) {
    if (!trains(block) && !lends_gradient(program_, block)) {
      return;
    }
    const MicroBatchRange mine{first_mb(), end_mb()};
    for (const Merge m : merges_after(mb, shape_.summation, mine, shape_.micro_batches)) {
      add({.op = Op::merge, .block = block, .sum = name_of_sum(m.left), .from = m.right});
    }
  }
  int name_of_sum(int first) const { return first == first_mb() ? -1 : first; }
  const StepShape& shape_;
  Program program_;
  int lowest_ = 0;
};

}  // namespace

StepShape with_updates(StepShape shape, UpdateMode mode, int speculated) {
  shape.lazy = mode == UpdateMode::lazy_forward || mode == UpdateMode::hybrid;
  shape.speculated.clear();
  if (mode != UpdateMode::hybrid) {
    return shape;
  }
  int late = 0;
  for (int b = shape.blocks - 1; b >= 0; --b) {
    if (!std::ranges::binary_search(shape.frozen, b)) {
      --speculated >= 0 ? shape.speculated.push_back(b) : void(++late);
    }
  }
  std::ranges::reverse(shape.speculated);
  shape.lazy = late > 0;
  return shape;
}

Program make_step(const StepShape& shape, Order order, UpdateMode mode) {
  STRATA_ASSERT(mode == UpdateMode::hybrid || shape.lazy == (mode == UpdateMode::lazy_forward));
  STRATA_ASSERT(mode == UpdateMode::hybrid || shape.speculated.empty());
  ProgramWriter w(shape, ProgramKind::train);
  if (order == Order::micro_batch_major) {
    // Ranks wait for one another where they meet, and on shared cores now one is late, now another:
    // meeting once instead of after every block lets that even out. The gradients of all blocks
    // are alive until `decide` anyway.
    const bool together = shape.world > 1 && mode == UpdateMode::after_norm;
    for (int mb = w.first_mb(); mb < w.end_mb(); ++mb) {
      const bool final = mb == w.end_mb() - 1;
      for (int b = 0; b <= w.last(); ++b) {
        if (mb == w.first_mb()) {
          w.update_late(b);
        }
        w.forward(b, mb);
      }
      for (int b = w.last(); b >= w.lowest(); --b) {
        if (b < w.last()) {
          w.backward(b, mb);
        }
        if (final && !together) {
          w.gradient_complete(b, mode);
        }
      }
    }
    for (int b = w.last(); together && b >= w.lowest(); --b) {
      w.gradient_complete(b, mode);
    }
  } else {
    for (int b = 0; b <= w.last(); ++b) {
      w.update_late(b);
      for (int mb = w.first_mb(); mb < w.end_mb(); ++mb) {
        w.forward(b, mb);
      }
    }
    w.gradient_complete(w.last(), mode);
    for (int b = w.last() - 1; b >= w.lowest(); --b) {
      for (int mb = w.first_mb(); mb < w.end_mb(); ++mb) {
        w.backward(b, mb);
      }
      w.gradient_complete(b, mode);
    }
  }
  w.decide_and_apply(mode);
  return w.finish();
}

Program make_evaluation(const StepShape& shape) {
  ProgramWriter w(shape, ProgramKind::evaluate);
  for (int mb = w.first_mb(); mb < w.end_mb(); ++mb) {
    for (int b = 0; b <= w.last(); ++b) {
      w.forward(b, mb);
    }
  }
  return w.finish();
}

Program make_inference(const StepShape& shape) {
  ProgramWriter w(shape, ProgramKind::inference);
  for (int b = 0; b <= w.last(); ++b) {
    w.forward(b, 0);
  }
  return w.finish();
}

Program make_snapshot(const StepShape& shape) {
  ProgramWriter w(shape, ProgramKind::snapshot);
  for (int b = 0; b <= w.last(); ++b) {
    w.add({.op = Op::snapshot, .block = b});
  }
  return w.finish();
}

Program make_flush(const StepShape& shape) {
  ProgramWriter w(shape, ProgramKind::flush);
  for (int b = 0; b <= w.last(); ++b) {
    w.update_late(b);
  }
  return w.finish();
}

Program make_load(const StepShape& shape) {
  ProgramWriter w(shape, ProgramKind::load);
  for (int b = 0; b <= w.last(); ++b) {
    w.add({.op = Op::load, .block = b});
  }
  return w.finish();
}

}  // namespace strata
