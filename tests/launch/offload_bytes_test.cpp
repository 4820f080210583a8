// What is reserved, moved and resident, against what follows from the shapes of a model alone.
#include <bit>
#include <cmath>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "launch/assemble.h"
#include "launch/blueprint_parts.h"
#include "offload/nvme_layout.h"
#include "offload/tiered_store.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_offloading.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

Computation on_paper(models::ModelConfig model, const std::string& tiers) {
  Computation c;
  c.model = std::move(model);
  c.B = 1;
  c.T = 128;
  c.G = 1;
  c.dtype = DType::bf16;
  c.weights = WeightFormat::bf16_master;
  c.order = Order::layer_major;
  Offloading o = offloading(tiers, std::filesystem::temp_directory_path());
  o.budgets[kNvme] = std::int64_t{1} << 50;
  c.offloading = std::make_shared<const Offloading>(std::move(o));
  return c;
}

models::ModelConfig llama(std::int64_t L,
                          std::int64_t C,
                          std::int64_t F,
                          std::int64_t H,
                          std::int64_t K,
                          std::int64_t V) {
  models::ModelConfig m = models::preset("llama-8b");
  m.L = L;
  m.C = C;
  m.F = F;
  m.H = H;
  m.K = K;
  m.D = C / H;
  m.V = V;
  return m;
}

std::int64_t parameters(const Blueprint& blueprint) {
  std::int64_t count = 0;
  for (const BlockSpec& spec : blueprint.impl().specs) {
    for (const ParamSpec& param : spec.params) {
      count += param.info.shape.numel();
    }
  }
  return count;
}

std::int64_t bytes_of(const Blueprint& blueprint, PackClass cls) {
  std::int64_t bytes = 0;
  for (const auto& [key, size] : blueprint.plan().sizes) {
    bytes += key.cls == cls ? size : 0;
  }
  return bytes;
}

/// Working weights, masters and both moments, all in nvme: 14 bytes a parameter.
TEST(OffloadedBytes, A6WhatIsReservedIsWhatIsAskedFor) {
  const std::vector<models::ModelConfig> models{llama(24, 896, 4864, 14, 2, 151936),
                                                models::preset("llama-8b"),
                                                llama(80, 8192, 28672, 64, 8, 128256)};
  for (const models::ModelConfig& model : models) {
    const Blueprint blueprint(on_paper(model, "weights=nvme,state=nvme"));
    const std::int64_t asked = 14 * parameters(blueprint);
    SCOPED_TRACE(std::to_string(parameters(blueprint)) + " parameters");
    std::vector<std::int64_t> packs;
    std::int64_t powers_of_two = 0;
    for (const auto& [replica, offset] : blueprint.plan().offset) {
      if (replica.tier == kNvme) {
        packs.push_back(blueprint.plan().sizes.at(replica.key));
        powers_of_two +=
            static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(packs.back())));
      }
    }
    const auto most = static_cast<double>(4096 * static_cast<std::int64_t>(packs.size())) +
                      1.02 * static_cast<double>(asked);
    const std::int64_t planned = blueprint.plan().tiers.at(kNvme).arena_bytes;
    EXPECT_GE(planned, asked);
    EXPECT_LE(static_cast<double>(planned), most);
    EXPECT_LT(planned, powers_of_two);

    offload::NvmeLayout files(
        {{std::int64_t{1} << 50, 4096}, {std::int64_t{1} << 50, 4096}}, 4 << 20, {3, 1});
    files.place(packs);
    EXPECT_LE(static_cast<double>(files.end(0) + files.end(1)), most);
  }
}

/// A small model in training, and what its files saw.
class Traffic {
 public:
  Traffic(const std::string& tiers,
          std::int64_t G,
          std::int64_t most_written = offload::kAnyWrites) {
    Computation c;
    c.model = models::preset("tiny-llama");
    c.model.L = 2;
    c.model.C = 256;
    c.model.D = 64;
    c.B = 1;
    c.T = 16;
    c.G = G;
    c.dtype = DType::bf16;
    c.weights = WeightFormat::bf16_master;
    c.order = Order::layer_major;
    Offloading places = offloading(tiers, dir_.path());
    places.most_written = most_written;
    c.offloading = std::make_shared<const Offloading>(std::move(places));
    batches_ = random_batches(c);
    auto blueprint = std::make_unique<Blueprint>(c);
    const offload::Budgets budgets = just_enough(*blueprint);
    engine_ = std::make_unique<Engine>(std::move(blueprint), budgets, ranks_);
    engine_->start(1, {});
  }
  struct Bytes {
    std::int64_t read = 0, written = 0;
  };
  Bytes step() {
    const Bytes before = files();
    StepScalars scalars;
    scalars.inputs.info = {.step = ++done_, .seed = 1, .lr = 1e-3};
    scalars.inputs.batches = batches_;
    scalars.inputs.loss_tokens = static_cast<std::int64_t>(batches_.size()) * 16;
    engine_->step(scalars);
    EXPECT_NE(scalars.outcome, Outcome::skip);
    engine_->settle();
    const Bytes after = files();
    return {after.read - before.read - fetched_ahead(), after.written - before.written};
  }
  const Blueprint& blueprint() const { return engine_->blueprint(); }
  /// Of the moves of the program, between the two.
  std::int64_t moved(Tier from, Tier to) const {
    const auto moved = blueprint().simulate_step()->moved_bytes;
    const auto at = moved.find({from, to});
    return at == moved.end() ? 0 : at->second;
  }

 private:
  /// For a step that does not come.
  std::int64_t fetched_ahead() const {
    const Program& p = blueprint().step_program();
    std::int64_t bytes = 0;
    for (std::size_t k = 0; k < p.step.size(); ++k) {
      const Instruction& i = p.step[k];
      const bool ahead = i.op == Op::fetch && runs_on(i, static_cast<int>(k));
      bytes += ahead && i.source == kNvme ? blueprint().plan().sizes.at(i.key()) : 0;
    }
    return bytes;
  }
  Bytes files() const {
    Bytes all;
    for (int path = 0; path < 2 && engine_->store().nvme() != nullptr; ++path) {
      const offload::PathCounters counters = engine_->store().nvme()->counters(path);
      all.read += counters.bytes_read;
      all.written += counters.bytes_written;
    }
    return all;
  }
  tests::TempDir dir_;
  parallel::SelfCommunicator ranks_;
  std::vector<MicroBatch> batches_;
  std::unique_ptr<Engine> engine_;
  std::int64_t done_ = 0;
};

/// `bytes` more than expected at most 0.5 % and what alignment takes: pages of packs, lines of
/// tensors.
void expect_bytes(std::int64_t bytes, std::int64_t expected, const char* what) {
  EXPECT_GE(bytes, expected) << what;
  EXPECT_LE(static_cast<double>(bytes), 1.005 * static_cast<double>(expected) + 4 * 4096) << what;
}

TEST(OffloadedTraffic, A12StateInFilesMovesOnceEachWay) {
  for (const std::int64_t G : {1, 3}) {
    Traffic run("weights=host,state=nvme,grads=host,update=host", G);
    const std::int64_t P = parameters(run.blueprint());
    for (int t = 0; t < 3; ++t) {
      const Traffic::Bytes bytes = run.step();
      expect_bytes(bytes.read, 12 * P, "q P read");
      expect_bytes(bytes.written, 12 * P, "q P written");
      EXPECT_EQ(bytes.read, run.moved(kNvme, kHost) + run.moved(kNvme, kDevice));
      EXPECT_EQ(bytes.written, run.moved(kHost, kNvme) + run.moved(kDevice, kNvme));
    }
    for (const Instruction& i : run.blueprint().step_program().step) {
      EXPECT_FALSE(i.cls == PackClass::grads && is_move(i.op) &&
                   (i.tier == kNvme || i.source == kNvme));
    }
    // Gradients go down once, accumulated; weights come up for forward and for backward, less those
    // of the block at the turn.
    expect_bytes(run.moved(kDevice, kHost), bytes_of(run.blueprint(), PackClass::grads), "D2H");
    const std::int64_t weights = bytes_of(run.blueprint(), PackClass::weights);
    EXPECT_GE(run.moved(kHost, kDevice), weights);
    EXPECT_LE(run.moved(kHost, kDevice), 2 * weights);
  }
}

TEST(OffloadedTraffic, A12FilesSeeWhatTheProgramMoves) {
  for (const char* tiers : {kAllInNvme, "weights=nvme,state=nvme,grads=nvme,activations=nvme"}) {
    Traffic run(tiers, 2);
    for (int t = 0; t < 2; ++t) {
      const Traffic::Bytes bytes = run.step();
      EXPECT_EQ(bytes.read, run.moved(kNvme, kHost) + run.moved(kNvme, kDevice)) << tiers;
      EXPECT_EQ(bytes.written, run.moved(kHost, kNvme) + run.moved(kDevice, kNvme)) << tiers;
    }
  }
}

TEST(OffloadedTraffic, A24ANamedPlacementKeepsToItsWritesOrIsRefused) {
  const std::string tiers = "weights=host,state=nvme,grads=host,update=host";
  const std::int64_t bytes = Traffic(tiers, 2).step().written;
  Traffic enough(tiers, 2, bytes);
  EXPECT_EQ(enough.step().written, bytes);
  try {
    Traffic(tiers, 2, bytes - 1);
    FAIL();
  } catch (const offload::Infeasible& error) {
    EXPECT_EQ(error.misfit().of, offload::Misfit::Of::writes);
    EXPECT_EQ(error.misfit().needed_bytes, bytes);
    EXPECT_EQ(error.misfit().budget_bytes, bytes - 1);
  }
  EXPECT_NO_THROW(Traffic("weights=host,state=host", 2, 0));
}

/// Bytes of this process in memory, now or at most since `forget_most`.
std::int64_t resident_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) {
      return 1024 * std::stoll(line.substr(field.size() + 1));
    }
  }
  return -1;
}
bool forget_most() {
  std::ofstream("/proc/self/clear_refs") << 5;
  return resident_bytes("VmHWM") <= resident_bytes("VmRSS") + (1 << 20);
}

TEST(OffloadedStart, A18TheModelIsNeverInMemoryAsAWhole) {
  tests::TempDir dir;
  Computation c;
  c.model = models::preset("tiny-gpt2");
  c.model.L = 8;
  c.model.C = 512;
  c.model.H = c.model.K = 8;
  c.model.D = 64;
  c.model.F = 2048;
  c.B = 1;
  c.T = 16;
  c.G = 1;
  c.offloading = std::make_shared<const Offloading>(offloading(kAllInNvme, dir.path()));
  auto blueprint = std::make_unique<Blueprint>(c);
  const offload::Plan plan = blueprint->plan();
  const std::int64_t model =
      bytes_of(*blueprint, PackClass::weights) + bytes_of(*blueprint, PackClass::state);
  std::int64_t block = 0;
  for (const auto& [key, size] : plan.sizes) {
    block = std::max(block, size);
  }
  const std::int64_t planned =
      plan.tiers.at(kDevice).arena_bytes + plan.tiers.at(kHost).arena_bytes;
  ASSERT_LT(planned + block, model * 3 / 4) << "a whole model would not show";

  parallel::SelfCommunicator ranks;
  const offload::Budgets budgets = just_enough(*blueprint);
  if (!forget_most()) {
    GTEST_SKIP() << "/proc/self/clear_refs is not granted";
  }
  const std::int64_t before = resident_bytes("VmRSS");
  Engine engine(std::move(blueprint), budgets, ranks);
  std::int64_t most_asked = 0;
  engine.start(1, [&](const ParamSpec&, std::int64_t begin, std::span<float> values) {
    most_asked = std::max(most_asked, static_cast<std::int64_t>(values.size_bytes()));
    for (float& value : values) {
      value = static_cast<float>(++begin);
    }
  });
  EXPECT_LE(resident_bytes("VmHWM") - before, planned + block);
  EXPECT_LE(most_asked, block);
  for (const auto& [tier, in_tier] : plan.tiers) {
    EXPECT_LE(engine.ledger().peak(tier), in_tier.peak_bytes) << to_string(tier);
  }
  EXPECT_EQ(engine.ledger().current(kNvme), model);
}

/// A tied head uses the embedding's table: nowhere are there two of it, and while both are in use
/// it comes once.
TEST(OffloadedAliases, A22ATiedTableIsStoredAndFetchedOnce) {
  for (const bool tied : {true, false}) {
    Computation c = on_paper(models::preset("tiny-gpt2"), "weights=host");
    c.model.tied = tied;
    c.model.L = 1;
    c.evaluation_G = 1;
    Offloading o = *c.offloading;
    o.budgets[kDevice] = std::int64_t{1} << 30;
    c.offloading = std::make_shared<const Offloading>(std::move(o));
    const Blueprint blueprint(c);
    expect_bytes(bytes_of(blueprint, PackClass::weights), 2 * parameters(blueprint), "weights");
    std::map<int, int> fetches;
    for (const Instruction& i : blueprint.evaluation_program().step) {
      fetches[i.block] += i.op == Op::fetch && i.cls == PackClass::weights ? 1 : 0;
    }
    for (const int block : {0, 1, 2}) {
      EXPECT_EQ(fetches[block], 1) << block;
    }
  }
}

}  // namespace
}  // namespace strata::launch
