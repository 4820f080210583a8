#include "parallel/collectives.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/replicas.h"
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
  const int losses = static_cast<int>(s.loss_sums.size());
  RankCollectives(self, {.micro_batches = losses}).decide(s);
  return s;
}

TEST(Reduce, AddsBorrowedGradientsToTheirParameterOnly) {
  SelfCommunicator self;
  RankCollectives collectives(self, {.borrowed = kBorrows});
  Packs packs;
  packs.fill(kGrads, {1, 2, 3, 4});
  packs.fill(kBorrowed, {10, 20, 30, 40});
  collectives.reduce({.op = Op::reduce, .block = 0}, packs.held);
  EXPECT_EQ(packs.floats(kGrads), (std::vector<float>{1, 12, 23, 34}));
  EXPECT_EQ(packs.floats(kBorrowed), (std::vector<float>{10, 20, 30, 40}));
}

TEST(Reduce, AddsBorrowedPartsOfARankBeforeRanksInOrder) {
  tests::LocalRanks(3).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {.borrowed = kBorrows, .micro_batches = 3});
    Packs packs;
    // Floats beside 2^24 are 2 apart. 2^24 + 1 + 1 from the left stays there; 1 + 0.5 of one rank,
    // added first, counts.
    const bool first = ranks.rank() == 0;
    packs.fill(kGrads, {0, first ? 0x1p24f : 1.f, first ? 0x1p24f : 1.f, 0});
    packs.fill(kBorrowed, {0, first ? 0.f : .5f, 0, 0});
    collectives.reduce({.op = Op::reduce, .block = 0}, packs.held);
    EXPECT_EQ(packs.floats(kGrads), (std::vector<float>{0, 0x1p24f, 0x1p24f + 4.f, 0}));
  });
}

/// Sums that depend on order everywhere: value of element e in micro-batch mb.
float gradient(int mb, int e, bool borrowed) {
  return std::ldexp(1.f + 0.3f * static_cast<float>(mb),
                    (mb * 13 + e * 5 + (borrowed ? 7 : 0)) % 26);
}

float tree_sum(int begin, int end, int e, bool borrowed) {
  if (end - begin == 1) {
    return gradient(begin, e, borrowed);
  }
  const int cut = tree_split({begin, end});
  return tree_sum(begin, cut, e, borrowed) + tree_sum(cut, end, e, borrowed);
}

/// What a block's gradient packs hold on one rank after its micro-batches and merges.
void bring_sums(RankCollectives& collectives,
                MicroBatchRange mine,
                int G,
                PackClass cls,
                int block,
                tests::FakeStore& store,
                Held& held) {
  std::map<int, Lease> leases;
  const auto name = [&](int first) { return first == mine.begin ? -1 : first; };
  for (int mb = mine.begin; mb < mine.end; ++mb) {
    const PackKey key{cls, block, name(mb)};
    store.create(key);
    for (int e = 0; e < 4; ++e) {
      store.floats(key)[static_cast<std::size_t>(e)] =
          gradient(mb, e, cls == PackClass::borrowed_grads);
    }
    for (const Merge m : merges_after(mb, Summation::elastic, mine, G)) {
      Held two;
      two.add(store.acquire({cls, block, name(m.left)}));
      two.add(store.acquire({cls, block, m.right}));
      collectives.merge({.op = Op::merge, .block = block, .sum = name(m.left), .from = m.right},
                        two);
      two.clear();
      store.destroy({cls, block, m.right});
    }
  }
  for (const MicroBatchRange sum : partial_sums(Summation::elastic, mine, G)) {
    held.add(store.acquire({cls, block, name(sum.begin)}));
  }
}

TEST(Reduce, FollowsTheTreeWithAndWithoutShares) {
  const int G = 6;
  const std::vector<BlockShares> shares = {{{{0, 1, 1}, {1, 3, 0}, {3, 4, 1}}, {}}, {}, {}};
  for (const int world : {2, 3, 4}) {
    for (const bool sharded : {false, true}) {
      tests::LocalRanks(world).run([&](Communicator& ranks) {
        RankCollectives collectives(ranks,
                                    {.borrowed = kBorrows,
                                     .summation = Summation::elastic,
                                     .micro_batches = G,
                                     .shares = sharded ? shares : std::vector<BlockShares>{}});
        const MicroBatchRange mine = micro_batch_range(ranks.rank(), world, G);
        PackSizes sizes;
        for (int mb = -1; mb < G; ++mb) {
          sizes[{PackClass::grads, 0, mb}] = sizes[{PackClass::grads, 2, mb}] = 16;
          sizes[{PackClass::borrowed_grads, 2, mb}] = 16;
        }
        tests::FakeStore store(sizes);
        Held head, table;
        bring_sums(collectives, mine, G, PackClass::grads, 2, store, head);
        bring_sums(collectives, mine, G, PackClass::borrowed_grads, 2, store, head);
        collectives.reduce({.op = Op::reduce, .block = 2}, head);
        bring_sums(collectives, mine, G, PackClass::grads, 0, store, table);
        table.add(store.acquire(kBorrowed));
        collectives.reduce({.op = Op::reduce, .block = 0}, table);
        for (int e = 0; e < 4; ++e) {
          const bool own = !sharded || (ranks.rank() == 0 ? e == 1 || e == 2
                                                          : ranks.rank() == 1 && e != 1 && e != 2);
          const float sum = tree_sum(0, G, e, false);
          const float expected = e == 0 ? sum : sum + tree_sum(0, G, e - 1, true);
          if (own) {
            EXPECT_EQ(store.floats(kGrads)[static_cast<std::size_t>(e)], expected) << e;
          }
        }
      });
    }
  }
}

TEST(Publish, BringsTheOwnersWeightsToAll) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks,
                                {.micro_batches = 2, .shares = {{{}, {{0, 3, 1}, {3, 8, 0}}}}});
    const PackKey key{PackClass::weights, 0};
    tests::FakeStore store({{key, 8}});
    store.create(key);
    Held held;
    held.add(store.acquire(key));
    std::ranges::fill(held[key], static_cast<std::byte>(ranks.rank() + 1));
    collectives.publish({.op = Op::publish, .block = 0}, held);
    for (std::size_t k = 0; k < 8; ++k) {
      EXPECT_EQ(held[key][k], static_cast<std::byte>(k < 3 ? 2 : 1));
    }
  });
}

TEST(Replicas, DriftNamesTheRankOnAllOfThem) {
  tests::LocalRanks(3).run([](Communicator& ranks) {
    EXPECT_NO_THROW(require_equal_replicas(ranks, 5, 100));
    try {
      require_equal_replicas(ranks, ranks.rank() == 2 ? 6 : 5, 100);
      ADD_FAILURE() << "drift was not noticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::numerics);
      EXPECT_NE(std::string(error.what()).find("rank 2 "), std::string::npos) << error.what();
    }
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

TEST(Decide, LimitsEachBlockByItself) {
  StepScalars s = scalars_of({10.0}, {{16.0}, {0.25}, {}});
  s.block_scales.assign(3, 1.f);
  s = decided(std::move(s));
  EXPECT_EQ(s.outcome, Outcome::clip_below_one);
  EXPECT_EQ(s.block_scales, (std::vector<float>{static_cast<float>(1.0 / (4.0 + 1e-6)), 1.f, 1.f}));
  EXPECT_EQ(s.inputs.info.grad_scale, 1.f);
  EXPECT_EQ(s.grad_norm, std::sqrt(16.25));
  s = scalars_of({10.0}, {{0.25}, {0.25}, {}});
  s.block_scales.assign(3, 1.f);
  EXPECT_EQ(decided(std::move(s)).outcome, Outcome::clip_is_one);
}

TEST(Decide, OneBlockAfterAnotherIsAllAtOnce) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {.micro_batches = 2, .shares = {{}, {}}});
    const auto scalars = [&] {
      StepScalars s = ranks.rank() == 0 ? scalars_of({3.0}, {{9.0, 0.0}, {0.0}})
                                        : scalars_of({4.0}, {{0.0, 16.0}, {0.25}});
      s.block_squares.assign(2, -1.0);
      s.block_scales.assign(2, 1.f);
      return s;
    };
    StepScalars together = scalars(), apart = scalars();
    collectives.decide(together);
    collectives.decide_block(1, apart);
    EXPECT_EQ(apart.outcome, Outcome::clip_is_one);
    collectives.decide_block(0, apart);
    EXPECT_EQ(apart.outcome, Outcome::clip_below_one);
    EXPECT_EQ(apart.block_scales, together.block_scales);
    collectives.decide(apart);
    EXPECT_EQ(apart.block_scales, together.block_scales);
    EXPECT_EQ(apart.grad_norm, together.grad_norm);
    EXPECT_EQ(apart.loss, together.loss);
    EXPECT_EQ(apart.outcome, together.outcome);
    // One that is bad on one rank stops all that come after it, on both.
    StepScalars bad = scalars();
    bad.non_finite = ranks.rank() == 1;
    collectives.decide_block(1, bad);
    EXPECT_EQ(bad.outcome, Outcome::skip);
    bad.partials = {{1.0, 1.0}, {}};
    collectives.decide_block(0, bad);
    EXPECT_EQ(bad.outcome, Outcome::skip);
    StepScalars loss = scalars();
    loss.loss_sums = {ranks.rank() == 0 ? std::nan("") : 1.0};
    collectives.decide_block(1, loss);
    EXPECT_EQ(loss.outcome, Outcome::skip);
  });
}

TEST(Decide, IsTheSameOnAllRanks) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {.micro_batches = 2});
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

TEST(Decide, AddsUpWhatOwnersKnow) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {.micro_batches = 3, .shares = {{}, {}}});
    // Rank 0 has one micro-batch and rank 1 two; 2^53 + 1 + 1 shows their order.
    StepScalars s = ranks.rank() == 0 ? scalars_of({0x1p53}, {{9.0, 0.0}, {0.0}})
                                      : scalars_of({1.0, 1.0}, {{0.0, 16.0}, {0.0}});
    s.inputs.clip = 0;
    collectives.decide(s);
    EXPECT_EQ(s.loss, 0x1p53 / 10);
    EXPECT_EQ(s.grad_norm, 5.0);
    EXPECT_EQ(s.partials, (std::vector<std::vector<double>>{{9.0, 16.0}, {0.0}}));
  });
}

TEST(FoldLosses, GoesOnInOrderForEveryWorld) {
  const std::vector<double> losses = {0x1p53, 1.0, 1.0, 0x1p53, 3.0};
  double expected = 0.5;
  for (const double loss : losses) {
    expected += loss;
  }
  for (const int world : {2, 3, 5}) {
    tests::LocalRanks(world).run([&](Communicator& ranks) {
      const MicroBatchRange mine = micro_batch_range(ranks.rank(), world, 5);
      const auto own = std::span(losses).subspan(static_cast<std::size_t>(mine.begin),
                                                 static_cast<std::size_t>(mine.size()));
      EXPECT_EQ(fold_losses(ranks, 0.5, own, 5), expected);
    });
  }
}

TEST(FoldStats, AddsSlotsOfAllRanks) {
  tests::LocalRanks(2).run([](Communicator& ranks) {
    RankCollectives collectives(ranks, {.shares = {{}}});
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
