// The seams, with fakes only: a tied two-block model, three micro-batches, both orders, every exact
// update mode, one and two ranks, clipping in some steps and one non-finite step. Every program
// validates and all end with the same bytes.
#include <cmath>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/fake_machine.h"

namespace strata::tests {
namespace {

constexpr int kMicroBatches = 3, kSteps = 6;
constexpr double kClip = 0.4;
constexpr std::int64_t kTokens = 5;

/// A mode, and how many blocks speculate where that is said.
struct Update {
  UpdateMode mode = UpdateMode::after_norm;
  int speculated = 0;
};
constexpr Update kUpdates[] = {{UpdateMode::after_norm},
                               {UpdateMode::speculative, 2},
                               {UpdateMode::lazy_forward},
                               {UpdateMode::hybrid, 0},
                               {UpdateMode::hybrid, 1},
                               {UpdateMode::hybrid, 2}};

struct Variant {
  Order order = Order::micro_batch_major;
  Update update = {};
  int world = 1;
  Contributions contributions = Contributions::exact;
  std::vector<int> recomputed = {};
  int poisoned_step = -1;
  Summation summation = Summation::run;
  int micro_batches = kMicroBatches;
};

struct Result {
  std::vector<float> weights, state;
  std::vector<double> losses;
  int discards = 0, clipped = 0, skipped = 0;
};

StepShape shape_of(const Variant& v, int rank) {
  return with_updates({.blocks = 2,
                       .micro_batches = v.micro_batches,
                       .rank = rank,
                       .world = v.world,
                       .summation = v.summation,
                       .borrows = {{1, 0}},
                       .stat_phases = 1,
                       .recomputed = v.recomputed},
                      v.update.mode,
                      v.update.speculated);
}

MicroBatch batch_of(int step, int mb) {
  MicroBatch batch;
  batch.tokens = Tensor::zeros(DType::i32, {1, kTokens});
  batch.targets = Tensor::zeros(DType::i32, {1, kTokens});
  for (int t = 0; t < kTokens; ++t) {
    batch.tokens.data<std::int32_t>()[t] = (3 * step + 5 * mb + t) % kFakeV;
    batch.targets.data<std::int32_t>()[t] = (7 * step + 2 * mb + 3 * t + 1) % kFakeV;
  }
  return batch;
}

/// `before`: of the step before, and then of this one.
void run_step(
    const Variant& v, int step, Executor& executor, StepScalars::Before& before, Result& result) {
  const Program& p = executor.program();
  std::vector<MicroBatch> batches;
  for (int mb = p.first_micro_batch; mb < p.last_micro_batch; ++mb) {
    batches.push_back(batch_of(step, mb));
  }
  StepScalars scalars;
  // The mean over no token is beyond all numbers. Rates differ by step, so that it matters of which
  // step an update is.
  const std::int64_t tokens = step == v.poisoned_step ? 0 : v.micro_batches * kTokens;
  scalars.inputs = {{step + 1, 1, 0.5 + 0.01 * step, 1.f}, batches, tokens, kClip};
  scalars.before = before;
  executor.run(scalars);
  before = {scalars.outcome, scalars.inputs.info, scalars.block_scales};
  EXPECT_EQ(scalars.outcome == Outcome::skip, step == v.poisoned_step);
  result.losses.push_back(scalars.loss);
  result.clipped += scalars.outcome == Outcome::clip_below_one;
  result.skipped += scalars.outcome == Outcome::skip;
}

Result run_rank(const Variant& v, int rank, FakeWorld& world) {
  Program program = make_step(shape_of(v, rank), v.order, v.update.mode);
  FakeStore store(fake_sizes(program.first_micro_batch, program.last_micro_batch, kTokens));
  for (const PackKey k : program.residents) {
    store.create(k);
    const auto floats = store.floats(k);
    for (std::size_t e = 0; e < floats.size(); ++e) {
      floats[e] = k.cls == PackClass::weights ? std::sin(static_cast<float>(e) + 1.f) : 0.f;
    }
  }
  FakeRunner runner(program.first_micro_batch, v.contributions);
  FakeCollectives collectives(rank, world, program);
  FakeUpdater updater(rank, v.world);
  const std::size_t residents = store.live();
  const bool lazy = program.lazy;
  const Machine machine{&store, &runner, &collectives, &updater, nullptr};
  Executor executor(std::move(program), machine);
  StepScalars late;
  Result result;
  for (int step = 0; step < kSteps; ++step) {
    run_step(v, step, executor, late.before, result);
    EXPECT_EQ(store.live(), residents);
  }
  if (lazy) {
    Executor(make_flush(shape_of(v, rank)), machine).run(late);
  }
  for (int b = 0; b < 2; ++b) {
    const auto w = store.floats({PackClass::weights, b});
    const auto m = store.floats({PackClass::state, b});
    result.weights.insert(result.weights.end(), w.begin(), w.end());
    result.state.insert(result.state.end(), m.begin(), m.end());
  }
  result.discards = store.discards();
  return result;
}

Result run(const Variant& v) {
  std::vector<Program> programs, flushes;
  for (int r = 0; r < v.world; ++r) {
    programs.push_back(make_step(shape_of(v, r), v.order, v.update.mode));
    flushes.push_back(make_flush(shape_of(v, r)));
  }
  const auto wrong = validate(programs), late = validate(flushes);
  EXPECT_FALSE(wrong) << to_string(*wrong);
  EXPECT_FALSE(late) << to_string(*late);

  FakeWorld world(v.world);
  std::vector<Result> results(static_cast<std::size_t>(v.world));
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < v.world; ++r) {
      threads.emplace_back(
          [&, r] { results[static_cast<std::size_t>(r)] = run_rank(v, r, world); });
    }
  }
  for (const Result& other : results) {
    EXPECT_EQ(other.weights, results[0].weights) << "replicas differ";
  }
  return results[0];
}

TEST(Seams, EveryOrderModeAndRecomputeGivesTheSameBytes) {
  for (const int world : {1, 2}) {
    const Result reference = run({.world = world});
    EXPECT_GT(reference.clipped, 0);
    EXPECT_LT(reference.clipped, kSteps);
    EXPECT_LT(reference.losses.back(), reference.losses.front());
    for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
      for (const Update update : kUpdates) {
        SCOPED_TRACE("mode " + std::to_string(static_cast<int>(update.mode)) + ", speculated " +
                     std::to_string(update.speculated));
        for (const auto& recomputed : {std::vector<int>{}, std::vector<int>{0}}) {
          const Result r = run({order, update, world, Contributions::exact, recomputed});
          EXPECT_EQ(r.weights, reference.weights);
          EXPECT_EQ(r.state, reference.state);
          EXPECT_EQ(r.losses, reference.losses);
          EXPECT_EQ(r.discards, update.speculated * r.clipped);
        }
      }
    }
  }
}

TEST(Seams, TwoRanksAddWhatOneAdds) {
  const Result one = run({.world = 1, .contributions = Contributions::rounded});
  const Result two = run({.order = Order::layer_major,
                          .update = {UpdateMode::speculative},
                          .world = 2,
                          .contributions = Contributions::rounded});
  EXPECT_EQ(one.weights, two.weights);
  EXPECT_EQ(one.losses.size(), two.losses.size());
}

TEST(Seams, ElasticGivesOneSetOfBytesForEveryWorld) {
  for (const int G : {4, 7}) {
    Variant first{
        .contributions = Contributions::exact, .summation = Summation::elastic, .micro_batches = G};
    const Result reference = run(first);
    EXPECT_GT(reference.clipped, 0);
    for (const int world : {1, 2, 3, 4}) {
      for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
        for (const Update update : kUpdates) {
          Variant v = first;
          v.world = world;
          v.order = order;
          v.update = update;
          const Result r = run(v);
          EXPECT_EQ(r.weights, reference.weights) << world << " ranks";
        }
      }
    }
  }
  // Elsewhere the sums of more ranks are other sums: the order above is what makes them equal.
  const Result one = run({.micro_batches = 7});
  const Result three = run({.world = 3, .micro_batches = 7});
  EXPECT_NE(one.weights, three.weights);
}

TEST(Seams, NonFiniteStepChangesNothingOnAnyRank) {
  for (const int world : {1, 2}) {
    const Result reference = run({.world = world, .poisoned_step = 2});
    for (const Update update : kUpdates) {
      const Result r = run({.update = update, .world = world, .poisoned_step = 2});
      EXPECT_EQ(r.skipped, 1);
      EXPECT_EQ(r.weights, reference.weights);
      EXPECT_EQ(r.state, reference.state);
      for (const float w : r.weights) {
        EXPECT_TRUE(std::isfinite(w));
      }
      for (const float m : r.state) {
        EXPECT_TRUE(std::isfinite(m));
      }
    }
  }
}

}  // namespace
}  // namespace strata::tests
