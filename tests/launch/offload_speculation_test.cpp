// Steps that are clipped, skipped or interrupted by an evaluation, wherever bytes wait and whenever
// updates run.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "launch/assemble.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_model.h"
#include "tests/launch/small_offloading.h"
#include "tests/launch/snapshot_copy.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

constexpr double kClips = 1e-3, kLeaves = 1e9;

Computation computation() {
  Computation c;
  c.model = tests::small_gpt2(1, 32);
  c.model.dropout = 0.1f;
  c.B = 1;
  c.T = 16;
  c.G = 2;
  c.evaluation_G = 2;
  c.steps = 20;
  c.seed = 1;
  return c;
}

class Training {
 public:
  explicit Training(const Computation& c) : batches_(random_batches(c)) {
    auto blueprint = std::make_unique<Blueprint>(c);
    const offload::Budgets budgets = just_enough(*blueprint);
    engine_ = std::make_unique<Engine>(std::move(blueprint), budgets, ranks_);
    engine_->start(1, {});
    tokens_ = c.G * c.B * c.T;
  }
  Outcome step(double clip = 0, SpanLog* spans = nullptr) {
    scalars_.inputs.info = {.step = ++done_, .seed = 1, .lr = 1e-2};
    scalars_.inputs.batches = batches_;
    scalars_.inputs.loss_tokens = tokens_;
    scalars_.inputs.clip = clip;
    scalars_.inputs.spans = spans;
    engine_->step(scalars_);
    return scalars_.outcome;
  }
  /// Gradients beyond all numbers: those of a mean over no token.
  Outcome overflow() {
    const std::int64_t tokens = std::exchange(tokens_, 0);
    const Outcome outcome = step();
    tokens_ = tokens;
    return outcome;
  }
  double evaluate() { return engine_->evaluate(0, std::span(batches_).first(2)); }
  Engine& engine() { return *engine_; }
  double loss() const { return scalars_.loss; }
  std::map<Tier, std::int64_t> alive() const {
    std::map<Tier, std::int64_t> bytes;
    for (const Tier tier : {kDevice, kHost, kNvme}) {
      bytes[tier] = engine_->ledger().current(tier);
    }
    return bytes;
  }

 private:
  std::vector<MicroBatch> batches_;
  parallel::SelfCommunicator ranks_;
  std::unique_ptr<Engine> engine_;
  std::int64_t tokens_ = 0, done_ = 0;
  StepScalars scalars_;
};

const std::vector<Update> kExact = exact_updates(3);

class Speculation : public testing::Test {
 protected:
  /// In the device alone, updated after the norm.
  static Computation reference() { return computation(); }
  Computation offloaded(const Update& update, const std::string& tiers = kAllInNvme) {
    Computation c = update.of(computation());
    c.offloading = std::make_shared<const Offloading>(offloading(tiers, dir_.path()));
    return c;
  }
  /// The hash after `train`, which is to be the same in every mode and place.
  void expect_same_bits(const std::function<void(Training&)>& train) {
    Training resident(reference());
    train(resident);
    const std::uint64_t hash = resident.engine().replica_hash();
    for (const Update& update : kExact) {
      SCOPED_TRACE(update.name());
      Training other(offloaded(update));
      train(other);
      EXPECT_EQ(other.engine().replica_hash(), hash);
    }
  }
  tests::TempDir dir_;
};

std::int64_t count(const SpanLog& log, std::string_view name) {
  return std::ranges::count(log.spans(), name, &Span::name);
}

/// Steps of 20 that are clipped.
bool is_clipped(int step, int k) {
  return step * k / 20 != (step - 1) * k / 20;
}

TEST_F(Speculation, A16ClippedStepsAreDoneAgain) {
  struct Kind {
    Update update;
    std::int64_t blocks;  // that speculate
    int clipped;
  };
  const Update speculative{UpdateMode::speculative};
  const Kind kinds[] = {{speculative, 3, 0},
                        {speculative, 3, 1},
                        {speculative, 3, 5},
                        {speculative, 3, 20},
                        {{UpdateMode::hybrid, 1}, 1, 5},
                        {{UpdateMode::hybrid, 2}, 2, 5}};
  for (const auto& [update, blocks, k] : kinds) {
    SCOPED_TRACE(update.name() + ", clipped " + std::to_string(k));
    Training exact(reference()), guessed(offloaded(update));
    std::int64_t discards = 0;
    for (int t = 1; t <= 20; ++t) {
      const double clip = is_clipped(t, k) ? kClips : kLeaves;
      SpanLog log(100'000);
      EXPECT_EQ(exact.step(clip), guessed.step(clip, &log));
      EXPECT_EQ(exact.loss(), guessed.loss());
      EXPECT_EQ(count(log, "commit"), is_clipped(t, k) ? 0 : blocks);
      discards += count(log, "discard");
    }
    EXPECT_EQ(discards, k * blocks);
    EXPECT_EQ(guessed.engine().replica_hash(), exact.engine().replica_hash());
  }
}

TEST_F(Speculation, A16AnOverflowLeavesEveryByte) {
  for (const Update& update : kExact) {
    for (const char* tiers : {kAllInNvme, "state=host,grads=host,update=host"}) {
      SCOPED_TRACE(std::string(tiers) + ", " + update.name());
      Training training(offloaded(update, tiers));
      training.step();
      const std::vector<std::byte> before = copy_of(training.engine());
      EXPECT_EQ(training.overflow(), Outcome::skip);
      EXPECT_TRUE(copy_of(training.engine()) == before);
      EXPECT_NE(training.step(), Outcome::skip);
      EXPECT_FALSE(copy_of(training.engine()) == before) << "nothing moves: the test cannot fail";
    }
  }
}

TEST_F(Speculation, A2ClippedAndSkippedStepsHaveTheSameBits) {
  expect_same_bits([](Training& training) {
    for (int t = 1; t <= 8; ++t) {
      if (t == 3 || t == 6) {
        EXPECT_EQ(training.overflow(), Outcome::skip);
      } else if (t % 2 == 0) {
        EXPECT_EQ(training.step(kClips), Outcome::clip_below_one);
      } else {
        EXPECT_EQ(training.step(kLeaves), Outcome::clip_is_one);
      }
    }
  });
}

TEST_F(Speculation, A2NoThreadCountOrInstructionSetChangesABit) {
  const int threads = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  const auto run = [&](const Computation& c) {
    Training training(c);
    for (int t = 1; t <= 3; ++t) {
      training.step(t == 2 ? kClips : kLeaves);
    }
    return training.engine().replica_hash();
  };
  const std::uint64_t hash = run(reference());
  for (const int count : {1, 2, 7}) {
    set_thread_count(count);
    EXPECT_EQ(run(offloaded({UpdateMode::speculative})), hash) << count << " threads";
  }
  set_thread_count(threads);
  for (const cpu::IsaLevel level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2}) {
    if (level > best) {
      continue;
    }
    cpu::force_isa_level(level);
    EXPECT_EQ(run(offloaded({UpdateMode::speculative})), run(reference())) << to_string(level);
  }
  cpu::force_isa_level(best);
}

TEST_F(Speculation, A14EvaluationsBetweenStepsChangeNothing) {
  for (const Update& update : kExact) {
    SCOPED_TRACE(update.name());
    Training straight(offloaded(update));
    Computation other = offloaded(update);
    tests::TempDir elsewhere;
    other.offloading = std::make_shared<const Offloading>(offloading(kAllInNvme, elsewhere.path()));
    Training alternating(other);
    const auto between = alternating.alive();
    for (int t = 1; t <= 4; ++t) {
      straight.step(kLeaves);
      alternating.step(kLeaves);
      EXPECT_EQ(straight.loss(), alternating.loss());
      const double first = alternating.evaluate();
      EXPECT_EQ(alternating.alive(), between) << "something of the evaluation is left";
      EXPECT_EQ(alternating.evaluate(), first);
    }
    EXPECT_EQ(straight.engine().replica_hash(), alternating.engine().replica_hash());
    EXPECT_EQ(alternating.alive(), between);
  }
}

}  // namespace
}  // namespace strata::launch
