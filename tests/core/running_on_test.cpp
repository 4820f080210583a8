// Transfers that run on into the next step: a training program is a loop.
#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/executor.h"
#include "core/schedule.h"

namespace strata {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};
constexpr PackKey kFirst{PackClass::state, 0}, kLast{PackClass::state, 2};

Instruction move(Op op, PackKey key, Tier source, Tier tier, When when = When::always) {
  return {
      .op = op, .block = key.block, .cls = key.cls, .when = when, .tier = tier, .source = source};
}

int index_of(const Program& p, Op op, int block) {
  const auto at = std::ranges::find_if(
      p.step, [&](const Instruction& i) { return i.op == op && i.block == block; });
  return static_cast<int>(at - p.step.begin());
}

/// Three blocks, the states of two of them at home in the host. That of block 0 leaves the device
/// while the next step is in its forward of block 1; that of block 2, which is updated last, comes
/// back for the next step while this one ends.
Program looping() {
  Program p =
      make_step({.blocks = 3, .micro_batches = 1}, Order::layer_major, UpdateMode::after_norm);
  for (const PackKey key : {kFirst, kLast}) {
    std::erase(p.residents, key);
    p.homes.push_back({key, kHost});
  }
  const auto insert = [&](int at, Instruction i) { p.step.insert(p.step.begin() + at, i); };
  insert(index_of(p, Op::update, 0), move(Op::fetch, kFirst, kHost, kDevice));
  int after = index_of(p, Op::update, 0) + 1;
  insert(after, move(Op::evict, kFirst, kDevice, kHost, When::applied));
  p.step[static_cast<std::size_t>(after)].needed_by = index_of(p, Op::forward, 1);
  insert(++after, move(Op::evict, kFirst, kDevice, kHost, When::skipped));
  p.step[static_cast<std::size_t>(after)].clean = true;

  after = index_of(p, Op::update, 2) + 1;
  insert(after, move(Op::evict, kLast, kDevice, kHost, When::applied));
  insert(++after, move(Op::evict, kLast, kDevice, kHost, When::skipped));
  p.step[static_cast<std::size_t>(after)].clean = true;
  insert(++after, move(Op::fetch, kLast, kHost, kDevice));
  p.step[static_cast<std::size_t>(after)].needed_by = index_of(p, Op::update, 2);
  return p;
}

Instruction& one(Program& p, Op op, PackKey key, bool clean = false) {
  return *std::ranges::find_if(p.step, [&](const Instruction& i) {
    return i.op == op && i.key() == key && i.clean == clean;
  });
}

std::string diagnosis(const Program& p, std::optional<Budget> budget = std::nullopt) {
  const auto wrong = validate_alone(p, budget);
  return wrong ? to_string(*wrong) : "";
}

TEST(RunningOn, FetchAndEvictMayEndInTheNextStep) {
  Program p = looping();
  EXPECT_EQ(diagnosis(p), "") << p;
  std::ostringstream text;
  text << p;
  EXPECT_THAT(text.str(), HasSubstr("evict state[0] device -> host by 2 of the next step"));
}

TEST(RunningOn, WhatIsUnderWayIsNotUsed) {
  Program late = looping();
  one(late, Op::fetch, kLast).needed_by = index_of(late, Op::update, 2) + 1;
  EXPECT_THAT(diagnosis(late), HasSubstr("on its way"));
  Program leaving = looping();  // it is fetched again before the last step's bytes are at home
  one(leaving, Op::evict, kFirst).needed_by = index_of(leaving, Op::update, 0);
  EXPECT_THAT(diagnosis(leaving), HasSubstr("on its way"));
}

TEST(RunningOn, WhatWasFetchedAheadIsOfThisStepOnly) {
  Program p = looping();  // a second copy, while the first waits for its update
  p.step.insert(p.step.begin() + 1, move(Op::fetch, kLast, kHost, kDevice));
  for (Instruction& i : p.step) {
    i.needed_by += i.needed_by >= 0 ? 1 : 0;
  }
  EXPECT_THAT(diagnosis(p), HasSubstr("which exists"));
}

TEST(RunningOn, OtherMovesAndOtherProgramsMayNot) {
  Program p = make_evaluation({.blocks = 2, .micro_batches = 1});
  std::erase(p.residents, PackKey{PackClass::weights, 1});
  p.homes.push_back({{PackClass::weights, 1}, kHost});
  p.step.insert(p.step.begin() + 1, move(Op::fetch, {PackClass::weights, 1}, kHost, kDevice));
  p.step.insert(p.step.end() - 1, move(Op::evict, {PackClass::weights, 1}, kDevice, kHost));
  EXPECT_EQ(diagnosis(p), "");
  p.step[1].needed_by = 0;
  EXPECT_THAT(diagnosis(p), HasSubstr("is needed by instruction 0"));

  Program saves = looping();
  const int at = index_of(saves, Op::norm, 1);
  saves.step.insert(saves.step.begin() + at, move(Op::save, {PackClass::grads, 1}, kDevice, kHost));
  saves.step[static_cast<std::size_t>(at)].needed_by = 1;
  EXPECT_THAT(diagnosis(saves), HasSubstr("is needed by instruction 1"));
}

/// The room of what runs on is taken at both ends of the step.
TEST(RunningOn, RoomIsTakenAtBothEnds) {
  const Program p = looping();
  PackSizes sizes{{kFirst, 100}, {kLast, 100}, {{PackClass::saved, 0, 0}, 30}};
  const Budget tight{&sizes, {{kDevice, 229}}}, enough{&sizes, {{kDevice, 230}}};
  EXPECT_EQ(diagnosis(p, enough), "");
  EXPECT_THAT(diagnosis(p, tight), HasSubstr("needs 230 bytes"));

  const int count = static_cast<int>(p.step.size());
  std::vector<std::pair<int, int>> first, last;
  for (const Holding& h : holdings(p, Outcome::clip_is_one)) {
    if (h.replica == Replica{kFirst, kDevice}) {
      first.emplace_back(h.begin, h.end);
    }
    if (h.replica == Replica{kLast, kDevice}) {
      last.emplace_back(h.begin, h.end);
      EXPECT_EQ(p.step[static_cast<std::size_t>(h.by)].op, Op::fetch);
    }
  }
  const int fetch = index_of(p, Op::update, 0) - 1, back = index_of(p, Op::update, 2) + 1;
  std::ranges::sort(first);
  std::ranges::sort(last);
  EXPECT_THAT(first,
              ElementsAre(std::pair(0, index_of(p, Op::forward, 1)), std::pair(fetch, count)));
  EXPECT_THAT(last, ElementsAre(std::pair(0, back + 1), std::pair(back + 2, count)));
}

/// Notes what it is told.
class NotingStore final : public PackStore {
 public:
  void start(const Instruction& i) override { note("start", i); }
  void finish(const Instruction& i) override { note("finish", i); }
  void commit(int, Tier) override {}
  void discard(int, Tier) override {}
  std::vector<std::string> take() { return std::exchange(notes_, {}); }

 private:
  void note(const char* what, const Instruction& i) {
    if (!i.clean) {
      notes_.push_back(std::string(what) + " " + std::string(to_string(i.op)) + " " +
                       std::to_string(i.block));
    }
  }
  void create_replica(const Replica&) override {}
  void destroy_replica(const Replica& replica) override {
    if (replica.key == kLast || replica.key == kFirst) {
      notes_.push_back("destroy " + std::to_string(replica.key.block));
    }
  }
  Lease lease(const Replica& replica, Access access) override {
    return {*this, replica, access, {}};
  }
  void release(const Replica&, Access) noexcept override {}
  std::vector<std::string> notes_;
};

/// Rooms without work; updates are noted.
class NoWork final : public BlockRunner, public Collectives, public Updater {
 public:
  Outcome outcome = Outcome::clip_is_one;
  void forward(const Instruction&, const Held&, StepScalars&) override {}
  void recompute(const Instruction&, const Held&, StepScalars&) override {}
  void backward(const Instruction&, const Held&, StepScalars&) override {}
  void gather(const Instruction&, const Held&) override {}
  void merge(const Instruction&, const Held&) override {}
  void reduce(const Instruction&, const Held&) override {}
  void decide(StepScalars& scalars) override { scalars.outcome = outcome; }
  void decide_block(int, StepScalars&) override {}
  void fold_stats(StepScalars&) override {}
  void publish(const Instruction&, const Held&) override {}
  void send(const Instruction&, const Held&) override {}
  void recv(const Instruction&, const Held&) override {}
  void norm(const Instruction&, const Held&, StepScalars&) override {}
  void stats(const Instruction&, const Held&, StepScalars&) override {}
  void update(const Instruction&, const Held&, StepScalars&) override {}
};

TEST(RunningOn, AnExecutorCarriesTransfersFromRunToRun) {
  NotingStore store;
  NoWork work;
  Executor executor(looping(), {&store, &work, &work, &work});
  StepScalars scalars;
  const std::vector<std::string> end{"start fetch 0",
                                     "finish fetch 0",
                                     "start evict 0",
                                     "finish fetch 2",
                                     "start evict 2",
                                     "finish evict 2",
                                     "start fetch 2"};
  const auto after = [&](std::vector<std::string> begin) {
    begin.insert(begin.end(), end.begin(), end.end());
    return begin;
  };
  executor.run(scalars);  // nothing was started before it
  EXPECT_EQ(store.take(), after({"start fetch 2"}));
  executor.run(scalars);
  EXPECT_EQ(store.take(), after({"finish evict 0"}));
  executor.settle();
  EXPECT_THAT(store.take(), ElementsAre("finish evict 0", "finish fetch 2", "destroy 2"));
  executor.settle();
  EXPECT_THAT(store.take(), ElementsAre());
  executor.run(scalars);
  EXPECT_EQ(store.take(), after({"start fetch 2"}));
}

TEST(RunningOn, AStepThatIsSkippedLeavesNothingBehind) {
  NotingStore store;
  NoWork work;
  Executor executor(looping(), {&store, &work, &work, &work});
  StepScalars scalars;
  work.outcome = Outcome::skip;
  executor.run(scalars);
  store.take();
  executor.run(scalars);
  EXPECT_THAT(store.take(),
              ElementsAre("start fetch 0", "finish fetch 0", "finish fetch 2", "start fetch 2"));
}

}  // namespace
}  // namespace strata
