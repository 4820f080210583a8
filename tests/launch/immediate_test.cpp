// Updates of each block as soon as its gradient is there: the bits of updates after the norm, and
// one block's gradient alive at a time.
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "launch/assemble.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_model.h"
#include "tests/support/local_ranks.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

struct Placing {
  UpdateMode mode;
  Order order;
  int ranks = 1;
};

Computation computation(const std::string& method, const Placing& how, int rank) {
  Computation c;
  c.place = {.rank = rank, .world = how.ranks, .on_machine = how.ranks};
  c.model = tests::small_gpt2(3, 64);
  c.B = 1;
  c.T = 16;
  c.G = 4;
  c.update = how.mode;
  c.order = how.order;
  c.summation = Summation::elastic;
  c.method = method;
  return c;
}

class Weights final : public Snapshotter {
 public:
  void snapshot(const Instruction& i, const Held& packs) override {
    const std::span<std::byte> from = packs[{PackClass::weights, i.block}];
    bytes.insert(bytes.end(), from.begin(), from.end());
  }
  std::vector<std::byte> bytes;
};

struct End {
  std::vector<std::byte> weights;
  double grad_norm = 0;
  int clipped = 0, skipped = 0;
  std::int64_t grads_peak = 0, planned = 0, used = 0;
};

End train(const std::string& method, const Placing& how, double clip, double lr = 1e-3) {
  std::vector<End> ends(static_cast<std::size_t>(how.ranks));
  tests::LocalRanks(how.ranks).run([&](Communicator& all) {
    const Computation c = computation(method, how, all.rank());
    Engine engine(std::make_unique<Blueprint>(c), {{kDevice, std::int64_t{1} << 30}}, all);
    engine.start(1, {});
    const std::vector<MicroBatch> batches = random_batches(c);
    const Program& program = engine.blueprint().step_program();
    End end;
    for (std::int64_t t = 1; t <= 6; ++t) {
      StepScalars scalars;
      scalars.inputs.info = {.step = t, .seed = 1, .lr = lr};
      scalars.inputs.batches = std::span(batches).subspan(
          static_cast<std::size_t>(program.first_micro_batch),
          static_cast<std::size_t>(program.last_micro_batch - program.first_micro_batch));
      scalars.inputs.loss_tokens = c.G * c.B * c.T;
      scalars.inputs.clip = clip;
      scalars.inputs.clip_scope = clip > 0 ? ClipScope::pack : ClipScope::global;
      engine.step(scalars);
      end.grad_norm = scalars.grad_norm;
      end.clipped += scalars.outcome == Outcome::clip_below_one ? 1 : 0;
      end.skipped += scalars.outcome == Outcome::skip ? 1 : 0;
    }
    Weights weights;
    engine.snapshot(weights);
    end.weights = weights.bytes;
    end.grads_peak = engine.ledger().labels(kDevice).at("grads").peak;
    end.planned = engine.blueprint().plan().tiers.at(kDevice).peak_bytes;
    end.used = engine.ledger().peak(kDevice);
    ends[static_cast<std::size_t>(all.rank())] = end;
  });
  return ends[0];
}

TEST(Immediate, GivesTheBitsOfEveryOtherMode) {
  for (const char* method : {"adamw", "sgd_sai", "galore"}) {
    for (const double clip : {0.0, 0.3}) {
      const End want = train(method, {UpdateMode::after_norm, Order::layer_major}, clip);
      EXPECT_TRUE(clip == 0 || (want.clipped > 0)) << "the limit is never reached";
      for (const UpdateMode mode :
           {UpdateMode::immediate, UpdateMode::speculative, UpdateMode::after_norm}) {
        for (const Order order : {Order::layer_major, Order::micro_batch_major}) {
          for (const int ranks : {1, 2}) {
            SCOPED_TRACE(std::string(method) + " " + std::to_string(clip) + " mode " +
                         std::to_string(static_cast<int>(mode)) + " ranks " +
                         std::to_string(ranks));
            const End got = train(method, {mode, order, ranks}, clip);
            ASSERT_TRUE(got.weights == want.weights);
            EXPECT_EQ(got.clipped, want.clipped);
            EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-12 * want.grad_norm);
          }
        }
      }
    }
  }
}

TEST(Immediate, OneBlocksGradientIsAliveAtATime) {
  const End all = train("adamw", {UpdateMode::after_norm, Order::layer_major}, 1.0);
  const End one = train("adamw", {UpdateMode::immediate, Order::layer_major}, 1.0);
  EXPECT_EQ(one.planned, one.used);
  // The largest block: 12 C^2 + 13 C values; partial sums of four micro-batches along the tree
  // are three at most.
  const std::int64_t block = (4 * (12 * 64 * 64 + 13 * 64) + 4095) / 4096 * 4096;
  EXPECT_LE(one.grads_peak, 3 * block);
  EXPECT_GT(all.grads_peak, 3 * block);
}

TEST(Immediate, AGlobalLimitIsAnotherRun) {
  const Placing placing{UpdateMode::after_norm, Order::layer_major};
  EXPECT_FALSE(train("adamw", placing, 0.3).weights == train("adamw", placing, 0.0).weights);
}

}  // namespace
}  // namespace strata::launch
