// Blocks that take turns: what is frozen has neither gradient nor state and keeps its bits, what
// trains moves as if all did, and memory is that of the plan.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "launch/assemble.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_model.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};
constexpr int kDecoders = 3;

Computation computation(const std::string& method, std::vector<optim::Setting> settings) {
  Computation c;
  c.model = tests::small_gpt2(kDecoders, 64);
  c.B = 1;
  c.T = 16;
  c.G = 3;
  c.steps = 24;
  c.seed = 5;
  c.method = method;
  c.method_settings = std::move(settings);
  c.method_settings.push_back({"beta2", "0.999"});
  return c;
}

class Copy final : public Snapshotter {
 public:
  void snapshot(const Instruction& i, const Held& packs) override {
    const std::span<std::byte> from = packs[{PackClass::weights, i.block}];
    weights[i.block].assign(from.begin(), from.end());
    has_turn[i.block] = packs.contains({PackClass::turn_state, i.block});
  }
  std::map<int, std::vector<std::byte>> weights;
  std::map<int, bool> has_turn;
};

class Trained {
 public:
  explicit Trained(const Computation& c)
      : c_(c),
        engine(std::make_unique<Blueprint>(c), {{kDevice, std::int64_t{1} << 30}}, ranks_),
        batches_(random_batches(c)) {
    engine.start(1, {});
  }
  void step(std::int64_t number) {
    StepScalars scalars;
    scalars.inputs.info = {.step = number, .seed = 1, .lr = 1e-3};
    scalars.inputs.batches = batches_;
    scalars.inputs.loss_tokens = c_.G * c_.B * c_.T;
    engine.step(scalars);
    EXPECT_NE(scalars.outcome, Outcome::skip);
  }
  Copy copy() {
    Copy now;
    engine.snapshot(now);
    return now;
  }
  std::int64_t peak(const std::string& label) const {
    const auto labels = engine.ledger().labels(kDevice);
    const auto found = labels.find(label);
    return found == labels.end() ? 0 : found->second.peak;
  }

 private:
  Computation c_;
  parallel::SelfCommunicator ranks_;

 public:
  Engine engine;

 private:
  std::vector<MicroBatch> batches_;
};

struct Turning {
  std::string name;
  std::vector<optim::Setting> settings;
};

std::vector<Turning> turnings() {
  return {{"badam", {{"order", "ascending"}}},
          {"badam", {{"order", "descending"}, {"blocks", "2"}}},
          {"badam", {{"order", "ascending"}, {"ends", "in_turn"}}},
          {"badam", {{"ends", "always"}}},
          {"lisa", {}}};
}

// A first step in each period, from the same weights, beside AdamW of all.
TEST(Turns, WhatTrainsMovesAsIfAllDidAndTheRestKeepsItsBits) {
  for (const auto& [method, settings] : turnings()) {
    for (const Summation summation : {Summation::run, Summation::elastic}) {
      for (const auto recompute :
           {offload::Recompute::none, offload::Recompute::elementwise, offload::Recompute::block}) {
        const auto prepare = [&](Computation c) {
          c.summation = summation;
          c.recompute.assign(kDecoders, recompute);
          c.order = summation == Summation::elastic ? Order::layer_major : Order::micro_batch_major;
          return c;
        };
        Trained all(prepare(computation("adamw", {})));
        const Copy start = all.copy();
        all.step(1);
        const Copy want = all.copy();
        auto turning = settings;
        turning.push_back({"refresh_every", "4"});
        std::set<int> ever;
        for (int period = 0; period < 6; ++period) {
          SCOPED_TRACE(fmt::format("{} {} period {}", method, turning[0].value, period));
          Trained some(prepare(computation(method, turning)));
          some.step(1 + 4 * period);
          const Copy got = some.copy();
          for (const auto& [block, weights] : got.weights) {
            const bool trains = weights != start.weights.at(block);
            const bool lasts = trains && !got.has_turn.at(block);  // with its age
            ever.insert(trains ? block : -1);
            ASSERT_TRUE((lasts && period > 0) ||
                        weights == (trains ? want : start).weights.at(block))
                << block;
            ASSERT_EQ(got.has_turn.at(block), trains && !lasts);
            ASSERT_TRUE(!lasts || block == 0 || block == kDecoders + 1);
          }
        }
        EXPECT_TRUE(ever.contains(1) && ever.contains(2) && ever.contains(3));
      }
    }
  }
}

TEST(Turns, FrozenBlocksCostNoGradientAndNoState) {
  Trained all(computation("adamw", {}));
  Trained some(computation("badam", {{"refresh_every", "4"}}));
  for (std::int64_t t = 1; t <= 24; ++t) {
    all.step(t);
    some.step(t);
  }
  const Blueprint& plan = some.engine.blueprint();
  const auto& labels = plan.plan().tiers.at(kDevice).labels;
  for (const char* label : {"grads", "turn_state", "saved"}) {
    EXPECT_EQ(some.peak(label), labels.at(label)) << label;
  }
  EXPECT_EQ(some.engine.ledger().peak(kDevice), plan.plan().tiers.at(kDevice).peak_bytes);
  // 12 C^2 weights and 13 C norms and biases in a decoder block; packs are multiples of 4096.
  const std::int64_t of_block = 4 * (12 * 64 * 64 + 13 * 64);
  const auto page = [](std::int64_t bytes) { return (bytes + 4095) / 4096 * 4096; };
  EXPECT_EQ(some.peak("grads"), page(of_block));
  EXPECT_EQ(some.peak("turn_state"), page(2 * of_block));
  EXPECT_EQ(some.peak("state"), 0);
  EXPECT_EQ(some.peak("borrowed_grads"), 0);
  EXPECT_LT(some.peak("saved"), all.peak("saved"));
}

TEST(Turns, ARunPastItsPeriodsNeedsNoMoreThanPlanned) {
  Computation c = computation("lisa", {{"refresh_every", "2"}, {"blocks", "1"}});
  Trained run(c);
  std::set<std::vector<bool>> choices;
  for (std::int64_t t = 1; t <= c.steps; ++t) {
    run.step(t);
    const Copy now = run.copy();
    std::vector<bool> turns;
    for (const auto& [block, has] : now.has_turn) {
      turns.push_back(has);
    }
    choices.insert(turns);
    EXPECT_EQ(run.engine.period(), (t - 1) / 2);
  }
  EXPECT_EQ(choices.size(), 3u);
  EXPECT_EQ(run.engine.ledger().peak(kDevice),
            run.engine.blueprint().plan().tiers.at(kDevice).peak_bytes);
}

}  // namespace
}  // namespace strata::launch
