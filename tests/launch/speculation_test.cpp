// How many blocks of a hybrid step speculate: as many as there is room for, on every rank.
#include "launch/speculation.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/remedies.h"
#include "tests/launch/small_model.h"
#include "tests/support/local_ranks.h"

namespace strata::launch {
namespace {

using Amount = MemorySettings::Device;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};
constexpr int kBlocks = 6;

Computation computation(UpdateMode mode, std::optional<int> speculated = {}) {
  Computation c;
  c.model = tests::small_gpt2(kBlocks - 2, 32);
  c.T = 8;
  c.B = 1;
  c.G = 3;
  c.update = mode;
  c.speculated = speculated;
  return c;
}

/// All activations kept, in the device alone or as `placement` says.
MemorySettings memory(const std::string& placement = "") {
  MemorySettings m;
  m.device = Amount::bytes;
  m.device_bytes = 1 << 30;
  m.placement = placement;
  m.recompute.automatic = false;
  return m;
}

void set_bytes(MemorySettings& m, Tier tier, std::int64_t bytes) {
  (tier == kDevice ? m.device : m.host) = Amount::bytes;
  (tier == kDevice ? m.device_bytes : m.host_bytes) = bytes;
}

std::int64_t least_bytes(const Computation& c, MemorySettings m, Tier tier) {
  (tier == kDevice ? m.device : m.host) = Amount::minimum;
  return plan_memory(c, m, {}).blueprint->plan().tiers.at(tier).arena_bytes;
}

bool fits(int speculated, const MemorySettings& m) {
  try {
    return plan_memory(computation(UpdateMode::hybrid, speculated), m, {}).fits();
  } catch (const offload::Infeasible&) {
    return false;
  }
}

/// At budgets of a tier from what updates need that wait to what they need that do not.
void expect_the_most_that_fit(MemorySettings m, Tier tier) {
  const std::int64_t late = least_bytes(computation(UpdateMode::lazy_forward), m, tier);
  const std::int64_t early = least_bytes(computation(UpdateMode::hybrid, kBlocks), m, tier);
  ASSERT_LT(late, early);
  std::vector<int> counts;
  for (const double part : {0.15, 0.4, 0.6, 0.8, 1.05}) {
    const auto more = static_cast<std::int64_t>(part * static_cast<double>(early - late));
    SCOPED_TRACE(part);
    set_bytes(m, tier, late + more);
    const Planned planned = plan_memory(computation(UpdateMode::hybrid), m, {});
    ASSERT_TRUE(planned.fits());
    const int most = planned.blueprint->computation().speculated.value();
    const nlohmann::json json = speculation_json(planned);
    EXPECT_EQ(json["speculated_blocks"], most);
    EXPECT_EQ(json["trained_blocks"], kBlocks);
    EXPECT_TRUE(fits(most, m));
    if (most < kBlocks) {
      EXPECT_FALSE(fits(most + 1, m)) << most;
      EXPECT_NE(planned.speculated_why.find(to_string(tier)), std::string::npos)
          << planned.speculated_why;
    }
    counts.push_back(most);
  }
  EXPECT_TRUE(std::ranges::is_sorted(counts));
  EXPECT_LT(counts.front(), counts.back());
  EXPECT_LT(counts.front(), kBlocks);
  set_bytes(m, tier, 1 << 30);
  const Planned planned = plan_memory(computation(UpdateMode::hybrid), m, {});
  EXPECT_EQ(planned.blueprint->computation().speculated, kBlocks);
}

TEST(SpeculationTest, AutoIsTheMostThatFitsTheDevice) {
  expect_the_most_that_fit(memory(), kDevice);
}

TEST(SpeculationTest, AutoIsTheMostThatFitsTheHost) {
  expect_the_most_that_fit(memory("weights=host,state=host,grads=host,update=host"), kHost);
}

/// What is found so drives nothing elsewhere: places and recompute are those of updates that wait.
TEST(SpeculationTest, AutoTakesWhatIsLeft) {
  MemorySettings m = memory();
  m.recompute.automatic = true;
  const Planned late = plan_memory(computation(UpdateMode::lazy_forward), m, {});
  set_bytes(m, kDevice, late.blueprint->plan().tiers.at(kDevice).arena_bytes);
  const Planned hybrid = plan_memory(computation(UpdateMode::hybrid), m, {});
  EXPECT_EQ(hybrid.blueprint->computation().recompute, late.blueprint->computation().recompute);
  EXPECT_LT(hybrid.blueprint->computation().speculated, kBlocks);
  const Planned all = plan_memory(computation(UpdateMode::hybrid, kBlocks), m, {});
  EXPECT_NE(all.blueprint->computation().recompute, late.blueprint->computation().recompute)
      << "more would not fit otherwise: the test cannot fail";
}

TEST(SpeculationTest, OnlyHybridPlansSayHowMany) {
  const Planned planned = plan_memory(computation(UpdateMode::speculative), memory(), {});
  EXPECT_EQ(speculation_line(*planned.blueprint), std::nullopt);
  EXPECT_TRUE(speculation_json(planned).is_null());
  const Planned three = plan_memory(computation(UpdateMode::hybrid, 3), memory(), {});
  EXPECT_EQ(speculation_line(*three.blueprint),
            "updates: hybrid, 3 of 6 blocks speculate, the last ones");
}

/// Gradients that wait would be of blocks whose turn is over.
TEST(SpeculationTest, BlocksThatTakeTurnsDoNotWait) {
  for (const UpdateMode mode : {UpdateMode::lazy_forward, UpdateMode::hybrid}) {
    Computation c = computation(mode);
    c.method = "badam";
    try {
      plan_memory(c, memory(), {});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::config);
    }
  }
}

Job job(RankPlace place, std::int64_t device_bytes) {
  Sources sources;
  const auto set = [&](const char* key, const std::string& value) {
    Entry entry;
    entry.key = key;
    entry.raw.text = value;
    entry.origin = "command line";
    sources.arguments.push_back(entry);
  };
  set("model.preset", "tiny-gpt2");
  set("train.seq_len", "32");
  set("train.micro_batch", "1");
  set("train.batch_tokens", "128");
  set("numerics.update", "hybrid");
  set("memory.recompute", "none");
  set("memory.device", device_bytes > 0 ? std::to_string(device_bytes) : "1GiB");
  return make_job(Settings(sources), {}, Text::optional, place);
}

/// One rank has less room than the other: both speculate as it does, or they would never meet.
TEST(SpeculationTest, RanksAgreeOnTheLeast) {
  const RankPlace places[] = {{.rank = 0, .world = 2, .on_machine = 2},
                              {.rank = 1, .world = 2, .on_machine = 2}};
  Computation late = job(places[1], 0).computation, early = late;
  late.speculated = 0;
  early.speculated = 100;
  const std::int64_t least = least_bytes(late, memory(), kDevice);
  const std::int64_t most = least_bytes(early, memory(), kDevice);
  const std::int64_t budgets[] = {0, (least + most) / 2};
  std::vector<int> alone(2), together(2);
  for (std::size_t r = 0; r < 2; ++r) {
    alone[r] = plan_job(job(places[r], budgets[r])).blueprint->computation().speculated.value();
  }
  tests::LocalRanks(2).run([&](Communicator& all) {
    const auto r = static_cast<std::size_t>(all.rank());
    const Job mine = job(places[r], budgets[r]);
    const Planned planned = plan_together(mine, all);
    EXPECT_TRUE(planned.fits());
    together[r] = planned.blueprint->computation().speculated.value();
  });
  EXPECT_GT(alone[0], alone[1]);
  EXPECT_EQ(together, (std::vector{alone[1], alone[1]}));
}

}  // namespace
}  // namespace strata::launch
