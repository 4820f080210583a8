#include "offload/tiered_store.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};
constexpr PackKey kWeights{PackClass::weights, 1}, kNext{PackClass::weights_next, 1};
constexpr PackKey kState{PackClass::state, 1}, kSaved{PackClass::saved, 1, 0};
constexpr std::int64_t kBytes = 8192;

/// Weights in the device, state at home in host, activations in either.
Plan small_plan() {
  Plan plan;
  plan.sizes = {{kWeights, kBytes}, {kNext, kBytes}, {kState, kBytes}, {kSaved, kBytes}};
  plan.offset = {{{kWeights}, 0},
                 {{kNext}, kBytes},
                 {{kSaved}, kBytes},
                 {{kState}, -1},
                 {{kState, kHost}, 0},
                 {{kSaved, kHost}, -1}};
  plan.tiers[kDevice].arena_bytes = 3 * kBytes;
  plan.tiers[kHost].arena_bytes = 2 * kBytes;
  return plan;
}

Instruction move(Op op, PackKey key, Tier source, Tier tier, std::int64_t offset = -1) {
  return {.op = op,
          .block = key.block,
          .micro_batch = key.micro_batch,
          .cls = key.cls,
          .tier = tier,
          .source = source,
          .offset = offset};
}

class Store : public testing::Test {
 protected:
  void fill(PackKey key, Tier tier, int value) {
    const Lease lease = store_.acquire(key, tier);
    std::memset(lease.bytes().data(), value, lease.bytes().size());
  }
  bool holds(PackKey key, Tier tier, int value) {
    const Lease lease = store_.acquire(key, tier, Access::read);
    return std::ranges::all_of(lease.bytes(),
                               [&](std::byte b) { return b == static_cast<std::byte>(value); });
  }
  void run(const Instruction& i) {
    store_.start(i);
    store_.finish(i);
  }
  Ledger ledger_;
  TieredStore store_{small_plan(), {{kDevice, 3 * kBytes}, {kHost, 2 * kBytes}}, ledger_};
};

TEST(TieredStore, RefusesAnArenaOverItsBudget) {
  Ledger ledger;
  for (const Tier tight : {kDevice, kHost}) {
    Budgets budgets{{kDevice, 3 * kBytes}, {kHost, 2 * kBytes}};
    --budgets[tight];
    EXPECT_THROW(TieredStore(small_plan(), budgets, ledger), Error) << to_string(tight);
  }
}

TEST_F(Store, FetchCopiesAndEvictWritesBack) {
  store_.create(kState, kHost);
  fill(kState, kHost, 1);
  run(move(Op::fetch, kState, kHost, kDevice, 2 * kBytes));
  EXPECT_TRUE(holds(kState, kDevice, 1));
  EXPECT_EQ(ledger_.current(kDevice), kBytes);
  fill(kState, kDevice, 2);
  EXPECT_THROW(store_.acquire(kState, kHost), Error);  // outdated
  run(move(Op::evict, kState, kDevice, kHost));
  EXPECT_TRUE(holds(kState, kHost, 2));
  EXPECT_EQ(ledger_.current(kDevice), 0);
  EXPECT_THROW(store_.acquire(kState, kDevice), Error);
}

TEST_F(Store, CleanEvictCopiesNothing) {
  store_.create(kState, kHost);
  fill(kState, kHost, 1);
  run(move(Op::fetch, kState, kHost, kDevice, 0));
  Instruction evict = move(Op::evict, kState, kDevice, kHost);
  evict.clean = true;
  run(evict);
  EXPECT_TRUE(holds(kState, kHost, 1));
  run(move(Op::fetch, kState, kHost, kDevice, 0));
  fill(kState, kDevice, 2);
  EXPECT_THROW(store_.start(evict), Error);  // that would lose bytes
}

TEST_F(Store, SaveAndRestoreMoveAPackWithoutAHome) {
  store_.create(kSaved);
  fill(kSaved, kDevice, 5);
  run(move(Op::save, kSaved, kDevice, kHost, kBytes));
  EXPECT_EQ(ledger_.current(kDevice), 0);
  EXPECT_EQ(ledger_.current(kHost), kBytes);
  run(move(Op::restore, kSaved, kHost, kDevice, 0));
  EXPECT_TRUE(holds(kSaved, kDevice, 5));
  EXPECT_EQ(ledger_.current(kHost), 0);
  store_.destroy(kSaved);
  EXPECT_EQ(ledger_.current(kDevice), 0);
}

TEST_F(Store, NobodyTouchesWhatIsUnderWay) {
  store_.create(kState, kHost);
  fill(kState, kHost, 1);
  const Instruction fetch = move(Op::fetch, kState, kHost, kDevice, 0);
  store_.start(fetch);
  EXPECT_THROW(store_.acquire(kState, kDevice), Error);
  EXPECT_THROW(store_.acquire(kState, kHost, Access::write), Error);
  EXPECT_NO_THROW(store_.acquire(kState, kHost, Access::read));
  EXPECT_THROW(store_.destroy(kState, kHost), Error);
  store_.finish(fetch);
  EXPECT_TRUE(holds(kState, kDevice, 1));
}

TEST_F(Store, CommitAndDiscardOfTheNextGeneration) {
  for (const PackKey key : {kWeights, kNext}) {
    store_.create(key);
    fill(key, kDevice, key == kNext ? 7 : 1);
  }
  EXPECT_THROW(store_.create(kWeights), Error);
  EXPECT_THROW(store_.acquire({PackClass::grads, 1}), Error);
  store_.commit(1, kDevice);
  EXPECT_TRUE(holds(kWeights, kDevice, 7));
  EXPECT_EQ(ledger_.current(kDevice), kBytes);
  store_.create(kNext);
  store_.discard(1, kDevice);
  EXPECT_TRUE(holds(kWeights, kDevice, 7));
  {
    const Lease held = store_.acquire(kWeights);
    EXPECT_THROW(store_.destroy(kWeights), Error);
  }
  store_.destroy(kWeights);
  EXPECT_EQ(ledger_.current(kDevice), 0);
  EXPECT_EQ(ledger_.peak(kDevice), 2 * kBytes);
}

}  // namespace
}  // namespace strata::offload
