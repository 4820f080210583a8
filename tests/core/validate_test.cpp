#include <algorithm>
#include <functional>
#include <sstream>

#include <gtest/gtest.h>

#include "core/schedule.h"

namespace strata {
namespace {

StepShape tied_shape(int rank = 0, int world = 1) {
  return {.blocks = 3, .micro_batches = 4, .rank = rank, .world = world, .borrows = {{2, 0}}};
}

auto find(Program& p, Op op, int block = -1) {
  return std::find_if(p.step.begin(), p.step.end(), [&](const Instruction& i) {
    return i.op == op && (block < 0 || i.block == block);
  });
}

std::string diagnosis(const Program& p) {
  const auto wrong = validate({&p, 1});
  return wrong ? to_string(*wrong) : "";
}

/// Modes, and how many blocks of `trained` speculate where some do.
struct Update {
  UpdateMode mode;
  int speculated = 0;
};
constexpr Update kUpdates[] = {{UpdateMode::after_norm},
                               {UpdateMode::speculative},
                               {UpdateMode::immediate},
                               {UpdateMode::lazy_forward},
                               {UpdateMode::hybrid, 0},
                               {UpdateMode::hybrid, 1},
                               {UpdateMode::hybrid, 2},
                               {UpdateMode::hybrid, 3}};

TEST(Validate, AcceptsEveryScheduleAtAnyWorldSize) {
  for (int world = 1; world <= 4; ++world) {
    for (const Order order : {Order::micro_batch_major, Order::layer_major}) {
      for (const auto& [mode, speculated] : kUpdates) {
        std::vector<Program> ranks, evaluations, flushes;
        for (int r = 0; r < world; ++r) {
          StepShape shape = tied_shape(r, world);
          shape.recomputed = {0, 1};
          shape.stat_phases = 2;
          shape = with_updates(shape, mode, speculated);
          ranks.push_back(make_step(shape, order, mode));
          evaluations.push_back(make_evaluation(shape));
          flushes.push_back(make_flush(shape));
        }
        const auto wrong = validate(ranks);
        EXPECT_FALSE(wrong) << to_string(*wrong);
        EXPECT_FALSE(validate(evaluations));
        EXPECT_TRUE(!ranks[0].lazy || !validate(flushes));
      }
    }
  }
  EXPECT_EQ(diagnosis(make_snapshot(tied_shape())), "");
  EXPECT_EQ(diagnosis(make_inference({.blocks = 3, .micro_batches = 1, .borrows = {{2, 0}}})), "");
}

TEST(Validate, AcceptsFrozenBlocks) {
  const std::vector<std::vector<int>> choices{{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}};
  for (const std::vector<int>& frozen : choices) {
    for (const Summation summation : {Summation::run, Summation::elastic}) {
      for (const auto& [mode, speculated] : kUpdates) {
        std::vector<Program> ranks;
        for (int r = 0; r < 2; ++r) {
          StepShape shape = tied_shape(r, 2);
          shape.summation = summation;
          shape.recomputed = {1};
          shape.frozen = frozen;
          shape = with_updates(shape, mode, speculated);
          ranks.push_back(make_step(shape, Order::layer_major, mode));
        }
        const auto wrong = validate(ranks);
        EXPECT_FALSE(wrong) << to_string(*wrong);
        for (const Instruction& i : ranks[0].step) {
          const bool still = std::ranges::binary_search(frozen, i.block);
          EXPECT_FALSE(still && (i.op == Op::update || i.op == Op::norm || i.op == Op::publish));
          EXPECT_FALSE(i.op == Op::backward && i.block < lowest_trained(ranks[0]));
        }
      }
    }
  }
}

TEST(Validate, AFrozenBlockIsNotUpdated) {
  StepShape shape = tied_shape();
  shape.frozen = {1};
  Program p = make_step(shape, Order::layer_major, UpdateMode::after_norm);
  p.step.insert(p.step.end() - 1, {.op = Op::update, .block = 1, .when = When::applied});
  EXPECT_NE(diagnosis(p), "");
}

TEST(Validate, AnImmediateUpdateNeedsTheDecisionOfItsBlock) {
  Program p = make_step(tied_shape(), Order::layer_major, UpdateMode::immediate);
  EXPECT_EQ(diagnosis(p), "");
  p.step.erase(std::find_if(p.step.begin(), p.step.end(), [](const Instruction& i) {
    return i.op == Op::decide && i.block == 1;
  }));
  EXPECT_NE(diagnosis(p).find("before anything is decided of its block"), std::string::npos);
}

struct Broken {
  const char* what;
  std::function<void(Program&)> breakage;
  const char* expected;  // part of the message
};

TEST(Validate, NamesWhatIsWrong) {
  const Broken cases[] = {
      {"missing forward", [](Program& p) { p.step.erase(find(p, Op::forward, 1)); }, "not there"},
      {"backward twice",
       [](Program& p) {
         const auto it = find(p, Op::backward, 1);
         p.step.insert(it, *it);
       },
       "not there"},
      {"contributions out of order",
       [](Program& p) {
         const auto a = find(p, Op::backward, 1);
         std::swap(*a, *std::find_if(a + 1, p.step.end(), [](const Instruction& i) {
           return i.op == Op::backward && i.block == 1;
         }));
       },
       ""},
      {"first contribution adds to nothing",
       [](Program& p) { find(p, Op::backward, 1)->accumulate = Accumulate::add; },
       "not there"},
      {"reduce too early",
       [](Program& p) {
         const Instruction reduce = *find(p, Op::reduce, 0);
         p.step.erase(find(p, Op::reduce, 0));
         p.step.insert(find(p, Op::backward, 0) + 1, reduce);
       },
       "before"},
      {"norm forgotten", [](Program& p) { p.step.erase(find(p, Op::norm, 1)); }, "before the norm"},
      {"update forgotten",
       [](Program& p) { p.step.erase(find(p, Op::update, 1)); },
       "never updated"},
      {"update on skip",
       [](Program& p) { find(p, Op::update, 1)->when = When::always; },
       "skipped"},
      {"gradient leaks", [](Program& p) { p.step.erase(find(p, Op::drop, 1)); }, "left over"},
      {"decide forgotten",
       [](Program& p) { p.step.erase(find(p, Op::decide)); },
       "before `decide`"},
      {"update twice",
       [](Program& p) {
         const auto it = find(p, Op::update, 1);
         p.step.insert(it, *it);
       },
       "twice"},
      {"forward after update",
       [](Program& p) {
         p.step.insert(find(p, Op::drop, 0),
                       {.op = Op::recompute, .block = 0, .micro_batch = 0, .when = When::applied});
       },
       "after their update"},
      {"restore without save",
       [](Program& p) {
         p.step.insert(find(p, Op::forward, 1),
                       {.op = Op::restore, .block = 0, .micro_batch = 3, .cls = PackClass::saved});
       },
       "not there"},
  };
  for (const Broken& c : cases) {
    Program p = make_step(tied_shape(), Order::micro_batch_major, UpdateMode::after_norm);
    ASSERT_EQ(diagnosis(p), "");
    c.breakage(p);
    const std::string text = diagnosis(p);
    EXPECT_NE(text, "") << c.what;
    EXPECT_NE(text.find(c.expected), std::string::npos) << c.what << ": " << text;
  }
}

/// Blocks 1 and 2 speculate, block 0 is late.
Program hybrid(int rank = 0, int world = 1) {
  return make_step(with_updates(tied_shape(rank, world), UpdateMode::hybrid, 2),
                   Order::layer_major,
                   UpdateMode::hybrid);
}

auto find_after_decide(Program& p, Op op, int block) {
  return std::find_if(find(p, Op::decide), p.step.end(), [&](const Instruction& i) {
    return i.op == op && i.block == block;
  });
}

TEST(Validate, AHybridStepIsSpeculativeOfTheLastBlocksAndLateOfTheOthers) {
  Program p = hybrid();
  EXPECT_TRUE(p.lazy);
  EXPECT_EQ(p.speculated, (std::vector{1, 2}));
  EXPECT_EQ(std::ranges::count(p.residents, PackClass::grads, &PackKey::cls), 1);
  EXPECT_LT(find(p, Op::update, 0), find(p, Op::forward, 0));
  EXPECT_EQ(find(p, Op::update, 0)->when, When::applied);
  EXPECT_EQ(find(p, Op::update, 1)->when, When::always);
  EXPECT_GT(find(p, Op::update, 1), find(p, Op::norm, 1));
  EXPECT_EQ(find(p, Op::commit, 0), p.step.end());
  for (const int b : {1, 2}) {
    EXPECT_EQ(find(p, Op::commit, b)->when, When::clip_is_one);
    EXPECT_EQ(find(p, Op::discard, b)->when, When::not_clip_is_one);
    EXPECT_EQ(find_after_decide(p, Op::update, b)->when, When::clip_below_one);
  }
  EXPECT_EQ(find_after_decide(p, Op::update, 0), p.step.end());
  const Program flush = make_flush(with_updates(tied_shape(), UpdateMode::hybrid, 2));
  EXPECT_EQ(std::ranges::count(flush.step, Op::update, &Instruction::op), 1);
}

TEST(Validate, AHybridStepOfNoneIsLateAndOfAllSpeculative) {
  const auto text = [](int speculated, UpdateMode mode) {
    const StepShape shape = with_updates(tied_shape(), mode, speculated);
    std::ostringstream out;
    out << make_step(shape, Order::micro_batch_major, mode);
    return out.str();
  };
  EXPECT_EQ(text(0, UpdateMode::hybrid), text(0, UpdateMode::lazy_forward));
  EXPECT_EQ(text(3, UpdateMode::hybrid), text(0, UpdateMode::speculative));
  EXPECT_EQ(text(9, UpdateMode::hybrid), text(0, UpdateMode::speculative));
  EXPECT_FALSE(with_updates(tied_shape(), UpdateMode::hybrid, 3).lazy);
  StepShape frozen = tied_shape();
  frozen.frozen = {2};  // those that train are counted
  EXPECT_EQ(with_updates(frozen, UpdateMode::hybrid, 1).speculated, std::vector{1});
}

TEST(Validate, AHybridStepIsLegalHoweverBothStepsCameOut) {
  const Broken cases[] = {
      {"late update whatever came before",
       [](Program& p) { find(p, Op::update, 0)->when = When::always; },
       "skipped"},
      {"late update of an unclipped step alone",
       [](Program& p) { find(p, Op::update, 0)->when = When::clip_is_one; },
       "before the update that was put off"},
      {"late update of a block that speculates",
       [](Program& p) {
         Instruction late = *find(p, Op::update, 0);
         late.block = 1;
         p.step.insert(find(p, Op::forward, 1), late);
       },
       ""},
      {"update of a late block behind its norm",
       [](Program& p) {
         Instruction early = *find(p, Op::update, 1);
         early.block = 0;
         p.step.insert(find(p, Op::norm, 0) + 1, early);
       },
       ""},
      {"update of a late block after the decision",
       [](Program& p) {
         p.step.insert(p.step.end() - 1, {.op = Op::update, .block = 0, .when = When::applied});
       },
       "are to last"},
      {"speculation that the step before decides",
       [](Program& p) { find(p, Op::update, 1)->when = When::applied; },
       "not there"},
      {"no discard", [](Program& p) { p.step.erase(find(p, Op::discard, 1)); }, ""},
      {"discard of a clipped step alone",
       [](Program& p) { find(p, Op::discard, 1)->when = When::clip_below_one; },
       "left over"},
      {"no commit", [](Program& p) { p.step.erase(find(p, Op::commit, 1)); }, "left over"},
      {"commit of a clipped step",
       [](Program& p) { find(p, Op::commit, 1)->when = When::applied; },
       "assumed no clipping"},
      {"not done again",
       [](Program& p) { p.step.erase(find_after_decide(p, Op::update, 1)); },
       "never updated"},
      {"gradient left over",
       [](Program& p) { p.step.erase(find_after_decide(p, Op::drop, 1)); },
       "left over"},
      {"gradient of a late block gone",
       [](Program& p) {
         p.step.insert(p.step.end() - 1, {.op = Op::drop, .block = 0, .cls = PackClass::grads});
       },
       "gone at the end"},
  };
  ASSERT_EQ(diagnosis(hybrid()), "");
  for (const Broken& c : cases) {
    Program p = hybrid();
    c.breakage(p);
    const std::string text = diagnosis(p);
    EXPECT_NE(text, "") << c.what;
    EXPECT_NE(text.find(c.expected), std::string::npos) << c.what << ": " << text;
  }
}

/// A move whose condition is of one step and whose use is of the other: wrong in pairs of outcomes
/// that differ alone.
TEST(Validate, PairsOfOutcomesThatDifferAreChecked) {
  Program p = hybrid();
  const auto again = find_after_decide(p, Op::update, 1);
  const auto at = again - p.step.begin();
  p.homes = {{{PackClass::state, 1}, {TierKind::host, 0}}};
  std::erase(p.residents, PackKey{PackClass::state, 1});
  const Instruction fetch{.op = Op::fetch,
                          .block = 1,
                          .cls = PackClass::state,
                          .when = When::clip_below_one,
                          .source = {TierKind::host, 0}};
  Instruction evict = fetch;
  evict.op = Op::evict;
  std::swap(evict.tier, evict.source);
  // Around the update that is done again; what speculates is brought and taken back as it was.
  p.step.insert(p.step.begin() + at + 1, evict);
  p.step.insert(p.step.begin() + at, fetch);
  const auto bring = [&](auto where, Op op, bool clean, When when) {
    Instruction move = op == Op::fetch ? fetch : evict;
    move.when = when;
    move.clean = clean;
    p.step.insert(where, move);
  };
  const auto speculates = find(p, Op::update, 1) - p.step.begin();
  bring(p.step.begin() + speculates + 1, Op::evict, true, When::always);
  bring(p.step.begin() + speculates, Op::fetch, false, When::always);
  const auto commits = find(p, Op::commit, 1) - p.step.begin();
  bring(p.step.begin() + commits + 1, Op::evict, false, When::clip_is_one);
  bring(p.step.begin() + commits, Op::fetch, false, When::clip_is_one);
  ASSERT_EQ(diagnosis(p), "");
  // Begun before `decide`, the fetch is of the step before: right where both steps go alike.
  const auto late = std::find_if(p.step.begin(), p.step.end(), [](const Instruction& i) {
    return i.op == Op::fetch && i.when == When::clip_below_one;
  });
  Instruction early = *late;
  p.step.erase(late);
  p.step.insert(find(p, Op::decide), early);
  EXPECT_NE(diagnosis(p).find("the step before: "), std::string::npos) << diagnosis(p);
}

TEST(Validate, RanksOfAHybridStepMeetHoweverBothStepsCameOut) {
  std::vector<Program> ranks{hybrid(0, 2), hybrid(1, 2)};
  ASSERT_FALSE(validate(ranks));
  const StepShape other = with_updates(tied_shape(1, 2), UpdateMode::hybrid, 1);
  EXPECT_TRUE(
      validate(std::vector{ranks[0], make_step(other, Order::layer_major, UpdateMode::hybrid)}));
  ranks[1].step.erase(find(ranks[1], Op::publish, 0));  // of the step before
  EXPECT_TRUE(validate(ranks));
}

TEST(Validate, SpeculationMustBeThrownAwayWhenClippingHappens) {
  Program p = make_step(tied_shape(), Order::layer_major, UpdateMode::speculative);
  ASSERT_EQ(diagnosis(p), "");
  find(p, Op::commit, 1)->when = When::applied;
  EXPECT_NE(diagnosis(p), "");
}

TEST(Validate, FindsRanksThatWaitForEver) {
  std::vector<Program> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.push_back(make_step(tied_shape(r, 2), Order::layer_major, UpdateMode::after_norm));
  }
  ASSERT_FALSE(validate(ranks));
  std::vector<Program> swapped = ranks;
  const auto a = find(swapped[1], Op::reduce, 2), b = find(swapped[1], Op::reduce, 1);
  ASSERT_LT(a, b);
  ranks[1].step.erase(find(ranks[1], Op::publish, 1));
  const auto wrong = validate(ranks);
  ASSERT_TRUE(wrong);
  EXPECT_NE(wrong->text.find("waits for ever"), std::string::npos) << to_string(*wrong);
}

TEST(Validate, FindsUnmatchedSendsAndOverlappingRanges) {
  std::vector<Program> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.push_back(make_step(tied_shape(r, 2), Order::layer_major, UpdateMode::after_norm));
  }
  auto lost = ranks;
  lost[1].step.insert(
      find(lost[1], Op::forward, 1),
      {.op = Op::recv, .block = 9, .micro_batch = 0, .cls = PackClass::boundary, .peer = 0});
  EXPECT_TRUE(validate(lost));
  ranks[1].first_micro_batch = 1;
  EXPECT_TRUE(validate(ranks));
}

TEST(Validate, HoldsTheBudgetAtEveryPoint) {
  const Program major = make_step(tied_shape(), Order::micro_batch_major, UpdateMode::after_norm);
  const Program layer = make_step(tied_shape(), Order::layer_major, UpdateMode::after_norm);
  PackSizes sizes;
  for (int mb = 0; mb < 4; ++mb) {
    for (int b = 0; b < 3; ++b) {
      sizes[{PackClass::saved, b, mb}] = 100;
    }
  }
  // The loss block's activations live within its own instruction.
  EXPECT_FALSE(validate({&major, 1}, Budget{&sizes, {{Tier(), 300}}}));
  EXPECT_TRUE(validate({&major, 1}, Budget{&sizes, {{Tier(), 299}}}));
  EXPECT_FALSE(validate({&layer, 1}, Budget{&sizes, {{Tier(), 900}}}));
  EXPECT_TRUE(validate({&layer, 1}, Budget{&sizes, {{Tier(), 899}}}));
}

TEST(Program, PrintsOneNumberedInstructionALine) {
  std::ostringstream out;
  out << make_step(tied_shape(), Order::micro_batch_major, UpdateMode::speculative);
  const std::string text = out.str();
  EXPECT_NE(text.find("1: forward block 0 mb 0 (first)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("commit block 0 when clip = 1\n"), std::string::npos);
}

}  // namespace
}  // namespace strata
