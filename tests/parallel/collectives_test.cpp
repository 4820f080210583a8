#include "parallel/collectives.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/self_communicator.h"
#include "tests/support/fake_machine.h"
#include "tests/support/local_ranks.h"

namespace strata::parallel {
namespace {

constexpr PackKey kGrads{PackClass::grads, 0};
constexpr PackKey kBorrowed{PackClass::borrowed_grads, 2};

/// Owner's pack: 4 floats; the borrowed tensor is its last 3 and the first 3 of the borrower's.
const std::vector<BorrowedGrad> kBorrows = {
    {.borrower = 2, .owner = 0, .owner_offset = 4, .borrower_offset = 0, .numel = 3}};

struct Packs {
  tests::FakeStore store{{{kGrads, 16}, {kBorrowed, 16}}};
  Held held;
  Packs() {
    for (const PackKey key : {kGrads, kBorrowed}) {
      store.create(key);
      held.add(store.acquire(key));
    }
  }
  void fill(PackKey key, std::vector<float> values) {
    std::copy(values.begin(), values.end(), store.floats(key).begin());
  }
  std::vector<float> floats(PackKey key) {
    return {store.floats(key).begin(), store.floats(key).end()};
  }
};

StepScalars scalars_of(std::vector<double> losses, std::vector<std::vector<double>> partials) {
  StepScalars s;
  s.inputs.loss_tokens = 10;
  s.inputs.clip = 1.0;
  s.loss_sums = std::move(losses);
  s.partials = std::move(partials);
  return s;
}

StepScalars decided(StepScalars s) {
  SelfCommunicator self;
  RankCollectives(self, {}).decide(s);
  return s;
}

TEST(Reduce, AddsBorrowedGradientsToTheirParameterOnly) {
  SelfCommunicator self;
  RankCollectives collectives(self, kBorrows);
  Packs packs;
  packs.fill(kGrads, {1, 2, 3, 4});
  packs.fill(kBorrowed, {10, 20, 30, 40});
  collectives.reduce({.op = Op::reduce, .block = 0}, packs.held);
  EXPECT_EQ(packs.floats(kGrads), (std::vector<float>{1, 12, 23, 34}));
  EXPECT_EQ(packs.floats(kBorrowed), (std::vector<float>{10, 20, 30, 40}));
}

TEST(Reduce, AddsBorrowedPartsOfARankBeforeRanksInOrder) {
  tests::LocalRanks(3).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, kBorrows);
    Packs packs;
    // 2^24 + 1 + 1 is 2^24 when each 1 is added alone, and 2^24 + 2 when they meet first.
    packs.fill(kGrads,
               {0, ranks.rank() == 0 ? 0x1p24f : 1.f, ranks.rank() == 0 ? 0x1p24f : .5f, 0});
    packs.fill(kBorrowed, {0, ranks.rank() == 0 ? 0.f : .5f, 0, 0});
    collectives.reduce({.op = Op::reduce, .block = 0}, packs.held);
    EXPECT_EQ(packs.floats(kGrads), (std::vector<float>{0, 0x1p24f, 0x1p24f, 0}));
  });
}

TEST(Decide, ClipsAsPyTorchDoes) {
  const StepScalars s = decided(scalars_of({6.0, 4.0}, {{9.0}, {16.0}}));
  EXPECT_EQ(s.outcome, Outcome::clip_below_one);
  EXPECT_EQ(s.loss, 1.0);
  EXPECT_EQ(s.grad_norm, 5.0);
  EXPECT_EQ(s.inputs.info.grad_scale, static_cast<float>(1.0 / (5.0 + 1e-6)));
}

TEST(Decide, LeavesSmallOrUnclippedGradientsAlone) {
  EXPECT_EQ(decided(scalars_of({1.0}, {{0.25}})).outcome, Outcome::clip_is_one);
  // The norm equals the limit: PyTorch's epsilon tips it.
  EXPECT_EQ(decided(scalars_of({1.0}, {{1.0}})).outcome, Outcome::clip_below_one);
  StepScalars unlimited = scalars_of({1.0}, {{1e12}});
  unlimited.inputs.clip = 0;
  unlimited = decided(std::move(unlimited));
  EXPECT_EQ(unlimited.outcome, Outcome::clip_is_one);
  EXPECT_EQ(unlimited.inputs.info.grad_scale, 1.f);
  EXPECT_EQ(unlimited.grad_norm, 1e6);
}

TEST(Decide, FoldsPartialsInBlockThenChunkOrder) {
  // 2^53 + 1 + 1 from the left is 2^53; any order that lets the ones meet gives 2^53 + 2.
  const StepScalars s = decided(scalars_of({1.0}, {{0x1p53}, {1.0, 1.0}}));
  EXPECT_EQ(s.grad_norm, std::sqrt(0x1p53));
  const StepScalars t = decided(scalars_of({1.0}, {{1.0, 1.0}, {0x1p53}}));
  EXPECT_EQ(t.grad_norm, std::sqrt(0x1p53 + 2.0));
}

TEST(Decide, SkipsWhatIsNotFinite) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(decided(scalars_of({kInf}, {{1.0}})).outcome, Outcome::skip);
  EXPECT_EQ(decided(scalars_of({1.0}, {{kInf}})).outcome, Outcome::skip);
  StepScalars flagged = scalars_of({1.0}, {{0.5}});
  flagged.non_finite = true;
  EXPECT_EQ(decided(std::move(flagged)).outcome, Outcome::skip);
}

TEST(Decide, IsTheSameOnAllRanks) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {});
    StepScalars s = scalars_of({ranks.rank() == 0 ? 4.0 : 16.0}, {{0.25}});
    s.stop_requested = ranks.rank() == 1;
    collectives.decide(s);
    EXPECT_EQ(s.loss, 2.0);
    EXPECT_EQ(s.outcome, Outcome::clip_is_one);
    EXPECT_TRUE(s.stop_requested);
    s = scalars_of({1.0}, {{0.25}});
    s.non_finite = ranks.rank() == 1;
    collectives.decide(s);
    EXPECT_EQ(s.outcome, Outcome::skip);
    EXPECT_FALSE(s.stop_requested);
  });
}

TEST(FoldStats, AddsSlotsOfAllRanks) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {});
    StepScalars s;
    s.stats = ranks.rank() == 0 ? std::vector<double>{1.5, 0.0} : std::vector<double>{0.0, 2.5};
    collectives.fold_stats(s);
    EXPECT_EQ(s.stats, (std::vector<double>{1.5, 2.5}));
  });
}

TEST(SendRecv, CarriesAPackToItsPeer) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {});
    const PackKey key{PackClass::boundary, 3, 1};
    tests::FakeStore store({{key, 8}});
    store.create(key);
    Held held;
    held.add(store.acquire(key));
    Instruction i{.op = Op::send, .block = 3, .micro_batch = 1, .cls = PackClass::boundary};
    i.peer = 1 - ranks.rank();
    if (ranks.rank() == 0) {
      store.floats(key)[0] = 1.f;
      store.floats(key)[1] = 2.f;
      collectives.send(i, held);
    } else {
      collectives.recv(i, held);
      EXPECT_EQ(store.floats(key)[0], 1.f);
      EXPECT_EQ(store.floats(key)[1], 2.f);
    }
  });
}

}  // namespace
}  // namespace strata::parallel
