// Wherever bytes wait and whenever updates run, a step has the same bits, and the plan is kept to
// the byte.
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/assemble.h"
#include "tests/launch/random_batches.h"
#include "tests/support/local_ranks.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};
constexpr int kSteps = 5;

offload::HardwareProfile rates() {
  offload::HardwareProfile p;
  p.gemm_f32 = p.gemm_bf16 = 1e11;
  p.copy = 1e10;
  p.update = 1e8;
  return p;
}

/// Two paths in one directory each, with room for everything.
Offloading offloading(const std::string& tiers, const std::filesystem::path& directory) {
  Offloading o;
  o.tiers = offload::tiers_from(tiers).value();
  o.budgets = {{kDevice, offload::kLeast}, {kHost, offload::kLeast}, {kNvme, 1 << 30}};
  for (const char* name : {"a", "b"}) {
    std::filesystem::create_directories(directory / name);
    o.nvme.paths.push_back({.directory = directory / name,
                            .budget_bytes = 1 << 29,
                            .read_rate = 1e9,
                            .write_rate = 1e9});
  }
  o.nvme.verify = offload::Verify::all;
  o.nvme.warn = [](std::string_view) {};
  o.rates = rates();
  return o;
}

Computation computation(const std::string& preset) {
  Computation c;
  c.model = models::preset(preset);
  c.model.L = 3;
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
};

/// Five steps, of which some are clipped.
End train(const Computation& c) {
  End end;
  tests::LocalRanks(1).run([&](Communicator& all) {
    auto blueprint = std::make_unique<Blueprint>(c);
    offload::Budgets budgets;
    for (const auto& [tier, planned] : blueprint->plan().tiers) {
      budgets[tier] = planned.arena_bytes;
    }
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
  };
  return all;
}

class Offload : public testing::TestWithParam<std::string> {
 protected:
  void expect_same_bits(const Computation& resident, const std::vector<UpdateMode>& modes) {
    const End reference = train(resident);
    EXPECT_GT(reference.clipped, 0);
    EXPECT_LT(reference.clipped, kSteps);
    for (const UpdateMode mode : modes) {
      for (const std::string& tiers : placements()) {
        SCOPED_TRACE(tiers + ", mode " + std::to_string(static_cast<int>(mode)));
        Computation c = resident;
        c.update = mode;
        c.offloading = std::make_shared<const Offloading>(offloading(tiers, dir_.path()));
        const End end = train(c);
        EXPECT_EQ(end.hash, reference.hash);
        EXPECT_EQ(end.evaluated, reference.evaluated);
        EXPECT_LT(end.device_peak, reference.device_peak);
      }
    }
  }
  tests::TempDir dir_;
};

const std::vector<UpdateMode> kExact{
    UpdateMode::after_norm, UpdateMode::speculative, UpdateMode::lazy_forward};

TEST_P(Offload, A2NoPlacementChangesABit) {
  expect_same_bits(computation(GetParam()), {UpdateMode::after_norm});
}

TEST_P(Offload, A2NoPlacementOrModeOrScheduleChangesABitSlow) {
  for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
    for (const auto recompute :
         {offload::Recompute::none, offload::Recompute::elementwise, offload::Recompute::block}) {
      Computation c = computation(GetParam());
      c.order = order;
      c.recompute.assign(3, recompute);
      expect_same_bits(c, kExact);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Offload,
                         testing::Values("tiny-gpt2", "tiny-llama"),
                         [](const auto& param) { return param.param.substr(5); });

}  // namespace
}  // namespace strata::launch
