#include "optim/turns.h"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/optim/method_rig.h"

namespace strata::optim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Embedding, `decoders` blocks of two matrices and a norm, head.
std::vector<BlockSpec> model(int decoders) {
  std::vector<BlockSpec> blocks;
  TensorId id = 0;
  const auto add = [&](BlockSpec& block, Role role, Shape shape) {
    block.params.push_back({{id, "p" + std::to_string(id), role, shape}, {}});
    ++id;
  };
  BlockSpec embedding{"embedding", {}, {}}, head{"head", {}, {}};
  add(embedding, Role::embed, {9, 8});
  blocks.push_back(embedding);
  for (int d = 0; d < decoders; ++d) {
    BlockSpec block{"h." + std::to_string(d), {}, {}};
    add(block, Role::vector, {8});
    add(block, Role::matrix, {8, 16});
    add(block, Role::matrix, {16, 8});
    blocks.push_back(block);
  }
  add(head, Role::vector, {8});
  blocks.push_back(head);
  return blocks;
}

std::vector<int> blocks_with(const std::vector<std::vector<Turn>>& turns, Turn turn) {
  std::vector<int> found;
  for (std::size_t b = 0; b < turns.size(); ++b) {
    if (std::ranges::all_of(turns[b], [&](Turn t) { return t == turn; })) {
      found.push_back(static_cast<int>(b));
    }
  }
  return found;
}

std::vector<std::vector<Turn>> turns_of(const std::string& method,
                                        const std::vector<Setting>& settings,
                                        const std::vector<BlockSpec>& blocks,
                                        std::int64_t period,
                                        std::uint64_t seed = 3) {
  return make_optimizer(method, settings)->turns(blocks, period, seed);
}

TEST(Turns, BadamTrainsEveryDecoderBlockOnceInARound) {
  const auto blocks = model(5);
  std::set<std::vector<int>> orders;
  for (int round = 0; round < 4; ++round) {
    std::vector<int> order;
    for (int period = 0; period < 5; ++period) {
      const auto turns = turns_of("badam", {}, blocks, 5 * round + period);
      const std::vector<int> taken = blocks_with(turns, Turn::taken);
      ASSERT_EQ(taken.size(), 1u);
      EXPECT_EQ(blocks_with(turns, Turn::frozen).size(), 6u);
      order.push_back(taken[0]);
    }
    orders.insert(order);
    std::ranges::sort(order);
    EXPECT_THAT(order, ElementsAre(1, 2, 3, 4, 5));
  }
  EXPECT_GT(orders.size(), 1u) << "rounds are shuffled";
}

TEST(Turns, OrdersAreAsNamed) {
  const auto blocks = model(3);
  const auto taken = [&](const char* order, int period) {
    return blocks_with(turns_of("badam", {{"order", order}}, blocks, period), Turn::taken)[0];
  };
  for (int period = 0; period < 6; ++period) {
    EXPECT_EQ(taken("ascending", period), 1 + period % 3);
    EXPECT_EQ(taken("descending", period), 3 - period % 3);
  }
}

TEST(Turns, LisaDrawsBlocksBesideTheEnds) {
  const auto blocks = model(6);
  std::set<std::vector<int>> choices;
  std::vector<int> times(8, 0);
  for (int period = 0; period < 300; ++period) {
    const auto turns = turns_of("lisa", {}, blocks, period);
    EXPECT_THAT(blocks_with(turns, Turn::always), ElementsAre(0, 7));
    const std::vector<int> taken = blocks_with(turns, Turn::taken);
    ASSERT_EQ(taken.size(), 2u);
    choices.insert(taken);
    for (const int block : taken) {
      ++times[static_cast<std::size_t>(block)];
    }
  }
  EXPECT_EQ(choices.size(), 15u);
  for (int block = 1; block <= 6; ++block) {  // 100 expected, five standard deviations of 8.2
    EXPECT_NEAR(times[static_cast<std::size_t>(block)], 100, 41);
  }
}

TEST(Turns, EndsTakeTurnsWhereAsked) {
  const auto blocks = model(2);
  std::set<int> seen;
  for (int period = 0; period < 4; ++period) {
    seen.insert(
        blocks_with(turns_of("badam", {{"ends", "in_turn"}}, blocks, period), Turn::taken)[0]);
  }
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 3));
}

TEST(Turns, FrugalChoosesMatricesAndTheOthersWait) {
  const std::vector<Setting> settings{{"subspace", "tensors"}, {"density", "0.25"}};
  const auto blocks = model(4);  // 8 matrices
  std::set<std::pair<std::size_t, std::size_t>> seen;
  for (int period = 0; period < 4; ++period) {
    const auto turns = turns_of("frugal", settings, blocks, period);
    int taken = 0, waiting = 0;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (std::size_t p = 0; p < blocks[b].params.size(); ++p) {
        const bool matrix = blocks[b].params[p].info.role == Role::matrix;
        taken += turns[b][p] == Turn::taken ? 1 : 0;
        waiting += turns[b][p] == Turn::waiting ? 1 : 0;
        EXPECT_EQ(turns[b][p] == Turn::always, !matrix);
        if (turns[b][p] == Turn::taken) {
          seen.insert({b, p});
        }
      }
    }
    EXPECT_EQ(taken, 2);
    EXPECT_EQ(waiting, 6);
  }
  EXPECT_EQ(seen.size(), 8u) << "each once in a round";
}

TEST(Turns, AreAFunctionOfSeedAndPeriod) {
  const auto blocks = model(8);
  int different = 0;
  for (int period = 0; period < 8; ++period) {
    EXPECT_EQ(turns_of("badam", {}, blocks, period, 5), turns_of("badam", {}, blocks, period, 5));
    different +=
        turns_of("badam", {}, blocks, period, 5) != turns_of("badam", {}, blocks, period, 6);
  }
  EXPECT_GT(different, 2);
}

TEST(Turns, RefusesMoreBlocksThanThereAre) {
  try {
    turns_of("badam", {{"blocks", "4"}}, model(3), 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    EXPECT_THAT(error.what(), HasSubstr("optim.blocks: needs 1 to 3"));
    EXPECT_THAT(error.what(), HasSubstr("the nearest is 3"));
  }
}

/// State of one block after another, in the largest period.
TEST(Turns, StateIsThatOfWhatHasATurn) {
  using tests::MethodRig;
  const auto blocks = model(3);
  const std::int64_t of_block = 8 * (8 + 128 + 128), of_ends = 8 * (72 + 8);
  const auto bytes = [&](const std::string& method, WeightFormat format) {
    MethodRig rig(method, {{"blocks", "1"}}, format, {}, 0, blocks);
    std::int64_t sum = 0;
    for (int b = 0; b < rig.blocks_count(); ++b) {
      for (const StateEntry& entry : rig.updater.block(b).entries) {
        sum += entry.pack.cls == PackClass::weights ? 0 : entry.size_bytes();
      }
    }
    return sum;
  };
  EXPECT_EQ(bytes("badam", WeightFormat::f32), of_block);
  EXPECT_EQ(bytes("badam", WeightFormat::bf16_master), of_block + of_block / 2);
  EXPECT_EQ(bytes("lisa", WeightFormat::f32), of_block + of_ends);
  EXPECT_EQ(bytes("lisa", WeightFormat::bf16_master), (of_block + of_ends) / 2 * 3);
}

// What has a turn moves as AdamW that starts with it; what has none keeps its bits.
TEST(Turns, BadamIsAdamWThatStartsAnewWithEveryTurn) {
  using tests::MethodRig;
  const auto blocks = model(3);
  constexpr std::int64_t kPeriod = 4;
  const std::vector<Setting> plain{{"beta2", "0.999"}};
  std::vector<Setting> turning = plain;
  turning.push_back({"refresh_every", std::to_string(kPeriod)});
  MethodRig badam("badam", turning, WeightFormat::f32, {}, 0, blocks);
  auto adam = std::make_unique<MethodRig>(
      "adamw", plain, WeightFormat::f32, std::vector<ShardSpec>{}, 0, blocks);
  auto before = badam.collect();
  for (std::int64_t t = 1; t <= 5 * kPeriod; ++t) {
    const std::int64_t age = (t - 1) % kPeriod + 1;
    const auto turns = badam.updater.turns(t);
    if (age == 1) {  // of the weights as they are, without state
      adam = std::make_unique<MethodRig>(
          "adamw", plain, WeightFormat::f32, std::vector<ShardSpec>{}, 0, blocks);
      for (int b = 0; b < adam->blocks_count(); ++b) {
        const PackKey weights{PackClass::weights, b};
        std::ranges::copy(badam.bytes(weights), adam->bytes(weights).begin());
      }
    }
    tests::step_alone(badam, t, tests::gradient_of(t));
    // The clip coefficient alternates with t, so that the period is even.
    tests::step_alone(*adam, age, tests::gradient_of(t));
    const auto after = badam.collect(), want = adam->collect();
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (const ParamSpec& param : blocks[b].params) {
        const std::pair<std::string, std::string> key{param.info.name, "weight"};
        const bool taken = turns[b][0] == Turn::taken;
        ASSERT_TRUE(after.at(key) == (taken ? want : before).at(key))
            << param.info.name << " " << t;
      }
    }
    before = after;
  }
}

TEST(Turns, WhatWaitsMovesBySignOrGradient) {
  using tests::MethodRig;
  const auto blocks = model(2);
  for (const auto& [remainder, rate] : {std::pair{"sign", 0.5}, {"sgd", 2.0}, {"discard", 0.0}}) {
    std::vector<Setting> settings{{"subspace", "tensors"},
                                  {"density", "0.25"},
                                  {"remainder", remainder},
                                  {"weight_decay", "0"}};
    if (rate > 0) {
      settings.push_back({"rest_lr", to_text(rate)});
    }
    MethodRig rig("frugal", settings, WeightFormat::f32, {}, 0, blocks);
    const auto turns = rig.updater.turns(1);
    const auto before = rig.collect();
    tests::step_alone(rig, 1, tests::gradient_of(1), 1e-2);
    const auto after = rig.collect();
    int waiting = 0;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (std::size_t p = 0; p < blocks[b].params.size(); ++p) {
        if (turns[b][p] != Turn::waiting) {
          continue;
        }
        ++waiting;
        const ParamInfo& param = blocks[b].params[p].info;
        const std::pair<std::string, std::string> key{param.name, "weight"};
        const auto* const was = reinterpret_cast<const float*>(before.at(key).data());
        const auto* const is = reinterpret_cast<const float*>(after.at(key).data());
        for (std::int64_t i = 0; i < param.shape.numel(); ++i) {
          const double g = static_cast<double>(tests::gradient_of(1)(param, i));
          const double direction = std::string(remainder) == "sign" ? (g > 0) - (g < 0) : g;
          ASSERT_NEAR(is[i], was[i] - 1e-2 * rate * direction, 1e-7) << remainder << " " << i;
        }
      }
    }
    EXPECT_EQ(waiting, 3);
  }
}

TEST(Turns, RemaindersOfImagesAreRefused) {
  for (const char* remainder : {"residual", "channel", "tensor"}) {
    EXPECT_THAT(
        [&] {
          make_optimizer("badam", std::vector<Setting>{{"remainder", remainder}});
        },
        ::testing::ThrowsMessage<Error>(HasSubstr("optim.remainder: needs discard, sign or sgd")));
  }
}

}  // namespace
}  // namespace strata::optim
