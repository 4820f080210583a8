// How much of which memory: what was named, and what others leave.
#include "launch/budgets.h"

#include <algorithm>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/runtime.h"
#include "offload/memory_arenas.h"
#include "offload/transfers.h"

namespace strata::launch {
namespace {

using ::testing::HasSubstr;
using Amount = MemorySettings::Amount;
using Device = MemorySettings::Device;
using offload::NumaNode;

constexpr Tier kDevice{}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0},
    kFar{TierKind::far, 0};
constexpr std::int64_t kMiB = 1 << 20;

const std::vector<NumaNode> kOne{{0, 1000 * kMiB, 500 * kMiB, true, true}};
const std::vector<NumaNode> kTwo{{0, 1000 * kMiB, 500 * kMiB, true, true},
                                 {1, 400 * kMiB, 40 * kMiB, false, false}};

MemorySettings sized(std::int64_t pinned, std::int64_t host, std::int64_t far) {
  MemorySettings m;
  m.pinned = {Device::bytes, pinned};
  m.host_bytes = host;
  m.far = {Device::bytes, far};
  return m;
}

TEST(Budgets, NamedBytesAreSharedByTheRanksOfAMachine) {
  const offload::Budgets one = memory_budgets(sized(8 * kMiB, 6 * kMiB, 4 * kMiB), 5, 1, kOne);
  EXPECT_EQ(
      one,
      (offload::Budgets{{kDevice, 5}, {kPinned, 8 * kMiB}, {kHost, 6 * kMiB}, {kFar, 4 * kMiB}}));
  const offload::Budgets two = memory_budgets(sized(8 * kMiB, 6 * kMiB, 0), 5, 2, kOne);
  EXPECT_EQ(two, (offload::Budgets{{kDevice, 5}, {kPinned, 4 * kMiB}, {kHost, 3 * kMiB}}));
}

TEST(Budgets, LeastIsLeast) {
  MemorySettings m = sized(0, 0, 0);
  m.pinned.how = m.far.how = Device::minimum;
  EXPECT_EQ(memory_budgets(m, 5, 1, kOne),
            (offload::Budgets{{kDevice, 5}, {kPinned, offload::kLeast}, {kFar, offload::kLeast}}));
}

TEST(Budgets, AutomaticMemoryIsWhatOthersLeave) {
  MemorySettings m = sized(0, 0, 0);
  m.pinned.how = m.host = m.far.how = Device::automatic;
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  // Far memory has a node of its own, and a tenth of what is free there stays free.
  const offload::Budgets two = memory_budgets(m, 64 * kMiB, 1, kTwo);
  EXPECT_EQ(two.at(kFar), 36 * kMiB);
  std::int64_t all = 0;
  for (const auto& [tier, bytes] : two) {
    all += bytes;
  }
  EXPECT_LE(all, free);
  EXPECT_GE(all, free / 2);
  if (const auto lockable = offload::lockable_bytes()) {
    EXPECT_LE(two.at(kPinned), *lockable);
  }
  // Beside the host on its node nothing is left for it.
  EXPECT_FALSE(memory_budgets(m, 64 * kMiB, 1, kOne).contains(kFar));
  m.host = Device::bytes;
  EXPECT_GT(memory_budgets(m, 64 * kMiB, 1, kOne).at(kFar), 0);
}

TEST(Budgets, FarMemoryIsOfTheNodeThatIsNamed) {
  MemorySettings m = sized(0, 0, kMiB);
  EXPECT_EQ(far_node(m, kOne), std::nullopt);
  EXPECT_EQ(far_node(m, kTwo), 1);
  m.far_node = 0;
  EXPECT_EQ(far_node(m, kTwo), 0);
  const auto refusal = [&](const std::vector<NumaNode>& nodes) -> std::string {
    try {
      far_node(m, nodes);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::config);
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return {};
  };
  m.far_node = 7;
  EXPECT_THAT(refusal(kTwo), HasSubstr("no node 7"));
  EXPECT_THAT(refusal(kTwo), HasSubstr("0 with 1000.0 MiB, 1 with 400.0 MiB"));
  EXPECT_THAT(refusal({}), HasSubstr("none"));
  m.far_node.reset();
  m.far.bytes = 401 * kMiB;
  EXPECT_THAT(refusal(kTwo), HasSubstr("memory.far_node"));
}

}  // namespace
}  // namespace strata::launch
