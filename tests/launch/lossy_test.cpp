// Codecs that lose digits: never without consent, and with it the same bits wherever bytes lie.
#include <algorithm>
#include <array>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/activations.h"
#include "launch/assemble.h"
#include "launch/job.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_offloading.h"
#include "tests/support/errors.h"
#include "tests/support/local_ranks.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

using enum ActivationCodec;
using offload::Recompute;
constexpr ActivationCodec kLossy[] = {fp8, int8, int4};

Computation computation(const std::string& preset, ActivationCodec codec, int steps = 3) {
  Computation c;
  c.model = models::preset(preset);
  c.model.L = 2;
  c.model.C = 64;
  c.model.D = c.model.C / c.model.H;
  c.model.F = 160;
  c.model.V = 32;
  c.model.dropout = 0.f;
  c.B = 1;
  c.T = 32;
  c.G = 3;
  c.steps = steps;
  c.seed = 1;
  c.activation_codec = codec;
  return c;
}

struct End {
  std::uint64_t hash = 0;
  double first_loss = 0, last_loss = 0;  // of a token
  std::int64_t device_peak = 0;
};

/// All steps on the same data.
End train(const Computation& c) {
  End end;
  tests::LocalRanks(1).run([&](Communicator& all) {
    auto blueprint = std::make_unique<Blueprint>(c);
    const offload::Budgets budgets = just_enough(*blueprint);
    Engine engine(std::move(blueprint), budgets, all);
    engine.start(1, {});
    const std::vector<MicroBatch> batches = random_batches(c);
    for (std::int64_t t = 1; t <= c.steps; ++t) {
      StepScalars scalars;
      scalars.inputs.info = {.step = t, .seed = 1, .lr = 1e-3};
      scalars.inputs.batches = batches;
      scalars.inputs.loss_tokens = c.G * c.B * c.T;
      scalars.inputs.clip = 1;
      engine.step(scalars);
      double loss = 0;
      for (const double sum : scalars.loss_sums) {
        loss += sum / static_cast<double>(scalars.inputs.loss_tokens);
      }
      end.first_loss = t == 1 ? loss : end.first_loss;
      end.last_loss = loss;
    }
    end.hash = engine.replica_hash();
    for (const auto& [tier, planned] : engine.blueprint().plan().tiers) {
      EXPECT_EQ(engine.ledger().peak(tier), planned.peak_bytes) << to_string(tier);
    }
    end.device_peak = engine.ledger().peak(kDevice);
  });
  return end;
}

class Lossy : public testing::TestWithParam<std::string> {
 protected:
  tests::TempDir dir_;
};

TEST_P(Lossy, A21NoPlacementOrOrderChangesABit) {
  const std::uint64_t exact_hash = train(computation(GetParam(), exact)).hash;
  for (const ActivationCodec codec : kLossy) {
    SCOPED_TRACE(to_string(codec));
    const std::uint64_t reference = train(computation(GetParam(), codec)).hash;
    EXPECT_NE(reference, exact_hash);
    for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
      for (const char* tiers :
           {"", "activations=host", kAllInNvme, "activations=nvme,update=host"}) {
        Computation c = computation(GetParam(), codec);
        c.order = order;
        if (*tiers != '\0') {
          c.offloading = std::make_shared<const Offloading>(offloading(tiers, dir_.path()));
        }
        EXPECT_EQ(train(c).hash, reference) << tiers;
      }
    }
  }
}

// Memory decides how much is computed again, and with a codec that is by whole blocks.
TEST_P(Lossy, A21NoBudgetChangesABit) {
  for (const ActivationCodec codec : kLossy) {
    const Computation c = computation(GetParam(), codec);
    const auto planned = [&](std::int64_t bytes) {
      MemorySettings memory;
      memory.device = MemorySettings::Device::bytes;
      memory.device_bytes = bytes;
      memory.recompute.automatic = true;
      memory.activation_codec = codec;
      return plan_activations(c, memory);
    };
    const std::uint64_t reference = train(c).hash;
    const Planned most = planned(1 << 30), least = planned(1);
    const auto bytes = [](const Planned& p) {
      return p.blueprint->plan().tiers.at(kDevice).arena_bytes;
    };
    ASSERT_LT(bytes(least), bytes(most));
    std::vector<offload::RecomputeChoice> seen;
    constexpr int kParts = 24;  // fine enough to meet what redoes elementwise, were it tried
    for (int part = 0; part <= kParts; ++part) {
      const Planned p = planned(bytes(least) + part * (bytes(most) - bytes(least)) / kParts);
      EXPECT_TRUE(p.fits());
      const offload::RecomputeChoice& choice = p.blueprint->computation().recompute;
      EXPECT_TRUE(std::ranges::all_of(
          choice, [](Recompute r) { return r == Recompute::none || r == Recompute::block; }));
      if (std::ranges::find(seen, choice) == seen.end()) {
        seen.push_back(choice);
        EXPECT_EQ(train(p.blueprint->computation()).hash, reference);
      }
    }
    EXPECT_GT(seen.size(), 1u);
  }
}

// The data of one step, learnt by heart, where the loss falls fastest and what differs shows most.
TEST_P(Lossy, A21LossesStayNearExactOnes) {
  constexpr int kSteps = 40;
  const End reference = train(computation(GetParam(), exact, kSteps));
  const double learnt = reference.first_loss - reference.last_loss;
  ASSERT_GT(learnt, 1.0);
  const std::array<double, 3> near = {0.04, 0.04, 0.1};  // of what was learnt
  for (std::size_t i = 0; i < near.size(); ++i) {
    const End end = train(computation(GetParam(), kLossy[i], kSteps));
    EXPECT_EQ(end.first_loss, reference.first_loss) << "forward is exact";
    RecordProperty(std::string(to_string(kLossy[i])),
                   std::to_string(end.last_loss - reference.last_loss));
    EXPECT_LT(std::abs(end.last_loss - reference.last_loss), near[i] * learnt)
        << to_string(kLossy[i]) << ": " << end.last_loss << ", exactly " << reference.last_loss;
    EXPECT_NE(end.last_loss, reference.last_loss);
    EXPECT_LT(end.device_peak, reference.device_peak);
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Lossy,
                         testing::Values("tiny-gpt2", "tiny-llama"),
                         [](const auto& param) { return param.param.substr(5); });

TEST(LossyPlan, A21TheTimeOfACodecIsThatOfTheProfile) {
  const tests::TempDir dir;
  const auto seconds = [&](ActivationCodec codec, double rate) {
    Computation c = computation("tiny-llama", codec);
    Offloading o = offloading("update=host", dir.path());
    o.rates.codecs = {.fp8 = rate, .int8 = 2 * rate, .int4 = 4 * rate};
    c.offloading = std::make_shared<const Offloading>(std::move(o));
    const Blueprint blueprint(c);
    EXPECT_EQ(blueprint.block_program(1).codec(), codec);
    const double all = 2.0 * 3 * static_cast<double>(blueprint.block_program(1).coded_numel());
    return std::pair(blueprint.simulate_step()->seconds, all);
  };
  const double exactly = seconds(exact, 1e3).first;
  EXPECT_EQ(seconds(exact, 1e6).first, exactly);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto [took, elements] = seconds(kLossy[i], 1e6);
    const double codes = elements / (1e6 * static_cast<double>(1 << i));
    EXPECT_NEAR(took - exactly, codes, 0.05 * codes) << to_string(kLossy[i]);
  }
}

TEST(LossyPlan, A21ThePlanSaysThatDigitsAreLost) {
  const Blueprint exactly(computation("tiny-gpt2", exact)), lossy(computation("tiny-gpt2", int8));
  EXPECT_EQ(codec_text(exactly, "; "), "");
  EXPECT_EQ(codec_text(lossy, "; "), "; activations int8 (lossy)");
  EXPECT_FALSE(codec_json(exactly)["lossy"].get<bool>());
  EXPECT_TRUE(codec_json(lossy)["lossy"].get<bool>());
  EXPECT_EQ(codec_json(lossy)["codec"], "int8");
  EXPECT_LT(codec_json(lossy)["saved_bytes"].get<std::int64_t>(),
            codec_json(exactly)["saved_bytes"].get<std::int64_t>() / 2);
}

/// Settings of one run, each from a source of its own.
class RandomSettings {
 public:
  explicit RandomSettings(std::uint32_t seed) : random_(seed) {}
  Sources draw(const std::filesystem::path& file) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> menu = {
        {"train.dtype", {"f32", "bf16"}},
        {"train.order", {"auto", "micro-batch-major", "layer-major"}},
        {"train.seed", {"1", "2"}},
        {"optim.method", {"adamw", "sgd", "lion"}},
        {"optim.clip_scope", {"global", "pack"}},
        {"numerics.deterministic", {"run", "elastic"}},
        {"numerics.update", {"after_norm", "speculative", "lazy_forward"}},
        {"memory.device", {"auto", "minimum", "1GiB"}},
        {"memory.recompute", {"auto", "none", "elementwise", "mlp", "projections", "block"}},
        {"memory.activation_codec", {"exact", "fp8", "int8", "int4"}},
        {"numerics.allow_lossy", {"true", "false"}}};
    Sources sources;
    std::ofstream toml(file);
    for (const auto& [key, texts] : menu) {
      const std::string& text = texts[pick(texts.size())];
      std::string variable = "STRATA_" + key;
      std::ranges::transform(variable, variable.begin(), [](char c) {
        return static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      });
      variable.replace(variable.find('.'), 1, "__");
      switch (pick(5)) {
        case 0:
          toml << key << " = "
               << (text == "true" || text == "false" || key == "train.seed" ? text
                                                                            : '"' + text + '"')
               << '\n';
          break;
        case 1:
          sources.environment.emplace_back(variable, text);
          break;
        case 2:
          sources.arguments.push_back({key, {Raw::Kind::word, text, {}}, "command line"});
          break;
        case 3:
          sources.restored[key] = text;
          break;
        default:
          continue;  // not given
      }
      given[key] = text;
    }
    sources.file = file;
    return sources;
  }
  std::map<std::string, std::string> given;

 private:
  std::size_t pick(std::size_t count) { return random_() % count; }
  std::mt19937 random_;
};

TEST(LossyConsent, A21NoCodecIsActiveWithoutIt) {
  const tests::TempDir dir;
  models::ModelConfig model = computation("tiny-gpt2", exact).model;
  model.L = 1;
  int refused = 0, active = 0;
  for (std::uint32_t seed = 0; seed < 500; ++seed) {
    RandomSettings random(seed);
    const Sources sources = random.draw(dir.path() / "run.toml");
    const bool asked = random.given.contains("memory.activation_codec") &&
                       random.given["memory.activation_codec"] != "exact";
    const bool consent = random.given["numerics.allow_lossy"] == "true";
    if (asked && !consent) {
      const std::string line = tests::expect_error(Errc::config,
                                                   {"memory.activation_codec",
                                                    "numerics.allow_lossy",
                                                    random.given["memory.activation_codec"]},
                                                   [&] { Settings{sources}; });
      EXPECT_EQ(line.find('\n'), std::string::npos);
      ++refused;
      continue;
    }
    Settings settings(sources);
    complete(settings, model);
    const Computation c = computation_of(settings, model, {}, {});
    EXPECT_EQ(to_string(c.activation_codec),
              asked ? random.given["memory.activation_codec"] : "exact");
    const Blueprint blueprint(c);
    for (int block = 0; block < blueprint.step_program().blocks; ++block) {
      const bool decoder = block > 0 && block + 1 < blueprint.step_program().blocks;
      EXPECT_EQ(blueprint.block_program(block).codec(), decoder ? c.activation_codec : exact);
    }
    active += asked ? 1 : 0;
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(active, 20);
}

TEST(LossyConsent, A21WhatIsComputedAgainIsNumericWhereDigitsAreLost) {
  const auto hash = [](const std::string& codec, const std::string& recompute) {
    const auto set = [](const char* key, const std::string& text) {
      return Entry{key, {Raw::Kind::word, text, {}}, "command line"};
    };
    return Settings({.arguments = {set("numerics.allow_lossy", "true"),
                                   set("memory.activation_codec", codec),
                                   set("memory.recompute", recompute)}})
        .numeric_hash();
  };
  for (const char* recompute : {"none", "block", "0-2:block", "elementwise", "0:mlp,1:block"}) {
    EXPECT_EQ(hash("exact", recompute), hash("exact", "auto"));
  }
  EXPECT_NE(hash("fp8", "auto"), hash("exact", "auto"));
  EXPECT_NE(hash("fp8", "auto"), hash("int8", "auto"));
  for (const char* same : {"none", "block", "0-2:block"}) {
    EXPECT_EQ(hash("fp8", same), hash("fp8", "auto")) << same;
  }
  EXPECT_NE(hash("fp8", "elementwise"), hash("fp8", "auto"));
  EXPECT_NE(hash("fp8", "elementwise"), hash("fp8", "mlp"));
  EXPECT_NE(hash("fp8", "0:mlp"), hash("fp8", "1:mlp"));
  EXPECT_EQ(hash("fp8", "0:mlp,1:block"), hash("fp8", "0:mlp"));
}

}  // namespace
}  // namespace strata::launch
