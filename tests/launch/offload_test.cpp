// Wherever bytes wait and whenever updates run, a step has the same bits, and the plan is kept to
// the byte.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/assemble.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_offloading.h"
#include "tests/support/local_ranks.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

constexpr int kSteps = 5, kBlocks = 5;

Computation computation(const std::string& preset) {
  Computation c;
  c.model = models::preset(preset);
  c.model.L = kBlocks - 2;
  c.model.dropout = 0.1f;
  c.B = 1;
  c.T = 16;
  c.G = 3;
  c.evaluation_G = 2;
  c.steps = kSteps;
  c.seed = 1;
  return c;
}

struct End {
  std::uint64_t hash = 0;
  double evaluated = 0;
  int clipped = 0;
  std::int64_t device_peak = 0;
  int running_on = 0;  // transfers that end in the next step
};

/// Five steps, of which some are clipped.
End train(const Computation& c) {
  End end;
  tests::LocalRanks(1).run([&](Communicator& all) {
    auto blueprint = std::make_unique<Blueprint>(c);
    const offload::Budgets budgets = just_enough(*blueprint);
    Engine engine(std::move(blueprint), budgets, all);
    engine.start(1, {});
    const std::vector<MicroBatch> batches = random_batches(c);
    std::int64_t updates = 0;
    for (int t = 1; t <= kSteps; ++t) {
      StepScalars scalars;
      scalars.inputs.info = {.step = updates + 1, .seed = 1, .lr = 1e-2};
      scalars.inputs.batches = batches;
      scalars.inputs.loss_tokens = c.G * c.B * c.T;
      scalars.inputs.clip = t % 2 == 1 ? 0.5 : 1e9;
      engine.step(scalars);
      ++updates;
      end.clipped += scalars.outcome == Outcome::clip_below_one ? 1 : 0;
      if (t == 3) {
        end.evaluated = engine.evaluate(0, std::span(batches).first(2));
      }
    }
    end.hash = engine.replica_hash();
    for (const auto& [tier, planned] : engine.blueprint().plan().tiers) {
      EXPECT_EQ(engine.ledger().peak(tier), planned.peak_bytes) << to_string(tier);
    }
    end.device_peak = engine.ledger().peak(kDevice);
    end.running_on = running_on(engine.blueprint().step_program());
  });
  return end;
}

const std::vector<std::string>& placements() {
  static const std::vector<std::string> all{
      "state=host,grads=host,update=host",
      "weights=host,state=host,grads=host,activations=host,update=host",
      "weights=host,state=host,grads=host,activations=host",
      "weights=nvme,state=nvme,grads=nvme,activations=nvme,update=host",
      "weights=nvme,state=nvme,grads=nvme,activations=nvme",
      "weights=host,state=nvme,grads=host,activations=nvme,update=host",
      "weights=host,state=host,grads=host,activations=host*3/8,update=host",
      "weights=pinned,state=pinned,grads=pinned,activations=pinned,update=pinned",
      "weights=far,state=far,grads=far,activations=far",
      "weights=far,state=host,grads=pinned,activations=nvme,update=host",
      "weights=pinned,state=nvme,grads=far,activations=far,update=pinned",
  };
  return all;
}

class Offload : public testing::TestWithParam<std::string> {
 protected:
  void expect_same_bits(const Computation& resident, const std::vector<Update>& updates) {
    const End reference = train(resident);
    EXPECT_GT(reference.clipped, 0);
    EXPECT_LT(reference.clipped, kSteps);
    for (const Update& update : updates) {
      int running_on = 0;
      for (const std::string& tiers : placements()) {
        SCOPED_TRACE(tiers + ", " + update.name());
        Computation c = update.of(resident);
        c.offloading = std::make_shared<const Offloading>(offloading(tiers, dir_.path()));
        const End end = train(c);
        EXPECT_EQ(end.hash, reference.hash);
        EXPECT_EQ(end.evaluated, reference.evaluated);
        EXPECT_LT(end.device_peak, reference.device_peak);
        running_on += end.running_on;
      }
      EXPECT_GT(running_on, 0) << update.name();
    }
  }
  tests::TempDir dir_;
};

TEST_P(Offload, A2NoPlacementChangesABit) {
  expect_same_bits(computation(GetParam()), {{UpdateMode::after_norm}});
}

/// Blocks that speculate beside blocks that wait, in both orders.
TEST_P(Offload, A2NoNumberOfSpeculatingBlocksChangesABit) {
  Computation c = computation(GetParam());
  const End reference = train(c);
  for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
    c.order = order;
    for (int speculated = 0; speculated <= kBlocks; ++speculated) {
      SCOPED_TRACE(speculated);
      Computation hybrid = Update{UpdateMode::hybrid, speculated}.of(c);
      const End resident = train(hybrid);
      EXPECT_EQ(resident.hash, reference.hash);
      EXPECT_EQ(resident.evaluated, reference.evaluated);
      const std::string& tiers = placements()[static_cast<std::size_t>(speculated) % 6];
      hybrid.offloading = std::make_shared<const Offloading>(offloading(tiers, dir_.path()));
      const End offloaded = train(hybrid);
      EXPECT_EQ(offloaded.hash, reference.hash) << tiers;
      EXPECT_EQ(offloaded.evaluated, reference.evaluated) << tiers;
    }
  }
}

TEST_P(Offload, A2NoPlacementOrModeOrScheduleChangesABitSlow) {
  for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
    for (const auto recompute : {offload::Recompute::none,
                                 offload::Recompute::elementwise,
                                 offload::Recompute::mlp,
                                 offload::Recompute::projections,
                                 offload::Recompute::block}) {
      Computation c = computation(GetParam());
      c.order = order;
      c.recompute.assign(3, recompute);
      expect_same_bits(c, exact_updates(kBlocks));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Offload,
                         testing::Values("tiny-gpt2", "tiny-llama"),
                         [](const auto& param) { return param.param.substr(5); });

/// Engines that are trained until something happens.
class Faults : public testing::Test {
 protected:
  void start(io::FaultInjector fault) {
    Computation c = computation("tiny-gpt2");
    Offloading o = offloading(kAllInNvme, dir_.path());
    o.nvme.fault = std::move(fault);
    o.nvme.device_pauses.assign(3, std::chrono::milliseconds(1));
    c.offloading = std::make_shared<const Offloading>(std::move(o));
    batches_ = random_batches(c);
    tokens_ = c.G * c.B * c.T;
    auto blueprint = std::make_unique<Blueprint>(c);
    const offload::Budgets budgets = just_enough(*blueprint);
    engine_ = std::make_unique<Engine>(std::move(blueprint), budgets, ranks_);
    engine_->start(1, {});
  }
  void step() {
    StepScalars scalars;
    scalars.inputs.info = {.step = ++done_, .seed = 1, .lr = 1e-2};
    scalars.inputs.batches = batches_;
    scalars.inputs.loss_tokens = tokens_;
    engine_->step(scalars);
  }
  /// The error of a later step; fails when there is none.
  std::string error_of_steps(Errc code) {
    try {
      for (int k = 0; k < 3; ++k) {
        step();
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "three steps went well";
    return {};
  }
  tests::TempDir dir_;
  parallel::SelfCommunicator ranks_;
  std::vector<MicroBatch> batches_;
  std::int64_t tokens_ = 0, done_ = 0;
  std::unique_ptr<Engine> engine_;
};

TEST_F(Faults, A8ADiskThatIsFullEndsTheStepWithItsPath) {
  std::atomic<bool> full = false;
  start([&](const io::Request& request, std::int64_t result) {
    const bool data = request.direction == io::Direction::write && !request.bytes.empty();
    return full && data ? -ENOSPC : result;
  });
  step();
  full = true;
  const std::string text = error_of_steps(Errc::io);
  EXPECT_NE(text.find(dir_.path().string()), std::string::npos) << text;
}

TEST_F(Faults, A8APathThatDiesLosesWhatOnlyItHad) {
  std::atomic<bool> dead = false;
  const std::string first = (std::filesystem::canonical(dir_.path()) / "a").string();
  start([&](const io::Request& request, std::int64_t result) {
    return dead && request.path.starts_with(first) && !request.bytes.empty() ? -EIO : result;
  });
  step();
  dead = true;
  const std::string text = error_of_steps(Errc::io);
  EXPECT_NE(text.find("lost"), std::string::npos) << text;
}

TEST_F(Faults, A8AFlippedBitIsNotTrainedOn) {
  std::atomic<bool> flip = false;
  start([&](const io::Request& request, std::int64_t result) {
    if (flip && request.direction == io::Direction::read && !request.bytes.empty()) {
      request.bytes[0] ^= std::byte{1};
    }
    return result;
  });
  step();
  flip = true;
  error_of_steps(Errc::io);
}

}  // namespace
}  // namespace strata::launch
