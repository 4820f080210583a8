// Memory that is locked, and memory of a node: had as planned, or one line says what it is instead.
#include "offload/memory_arenas.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"
#include "offload/numa.h"
#include "offload/tiered_store.h"
#include "tests/support/forked.h"
#include "tests/support/temp_dir.h"

namespace strata::offload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Tier kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0}, kFar{TierKind::far, 0};
constexpr std::int64_t kPage = 4096;

Plan plan_of(Tier tier, std::int64_t size_bytes) {
  Plan plan;
  plan.tiers[tier].arena_bytes = size_bytes;
  return plan;
}

/// Of this process, as the kernel counts them.
std::int64_t locked_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmLck:")) {
      return 1024 * std::stoll(line.substr(6));
    }
  }
  return -1;
}

/// Of a mapping that the product knows nothing of.
bool may_lock(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  void* const data =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool granted = data != MAP_FAILED && ::mlock(data, size) == 0;
  if (data != MAP_FAILED) {
    ::munmap(data, size);
  }
  return granted;
}

TEST(MemoryArenas, PinnedPagesAreLockedToThePage) {
  const std::int64_t before = locked_bytes(), bytes = 50 * kPage + 1;
  std::vector<std::string> lines;
  const MemoryConfig config{.warn = [&](std::string_view line) { lines.emplace_back(line); }};
  {
    const auto arenas = make_arenas(plan_of(kPinned, bytes), {{kPinned, bytes}}, config);
    if (!may_lock(51 * kPage)) {
      GTEST_SKIP() << "needs the right to lock 51 pages";
    }
    EXPECT_TRUE(lines.empty()) << lines.front();
    EXPECT_EQ(locked_bytes() - before, 51 * kPage);
    EXPECT_EQ(arenas.at(kPinned).size_bytes(), 51 * kPage);
  }
  EXPECT_EQ(locked_bytes(), before);
  make_arenas(plan_of(kHost, bytes), {{kHost, bytes}}, config);
  EXPECT_TRUE(lines.empty());
}

TEST(MemoryArenas, RefusesWhatIsOverItsBudget) {
  for (const Tier tier : {kPinned, kFar}) {
    try {
      make_arenas(plan_of(tier, 2 * kPage), {{tier, kPage}});
      ADD_FAILURE() << to_string(tier);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::infeasible);
      EXPECT_THAT(error.what(), HasSubstr("memory." + to_string(tier)));
    }
  }
}

/// Bytes through a store whose pinned memory may not be locked: what it said, if they are right.
std::string lines_of_a_store() {
  constexpr PackKey kState{PackClass::state, 0};
  constexpr std::int64_t kBytes = 256 * kPage;
  Plan plan = plan_of(kPinned, kBytes);
  plan.sizes = {{kState, kBytes}};
  plan.offset = {{{kState, kPinned}, 0}};
  std::string text;
  Ledger ledger;
  TieredStore store(plan, {{kPinned, kBytes}}, ledger, {}, {}, {.warn = [&](std::string_view line) {
                      text += std::string(line) + '\n';
                    }});
  store.create(kState, kPinned);
  std::memset(store.acquire(kState, kPinned).bytes().data(), 7, kBytes);
  const Lease lease = store.acquire(kState, kPinned, Access::read);
  const bool right =
      std::ranges::all_of(lease.bytes(), [](std::byte b) { return b == std::byte{7}; });
  return right ? text : "bytes differ";
}

TEST(MemoryArenas, A27PinnedMemoryThatMayNotBeLockedCostsALine) {
  const auto end = tests::run_forked([] {
    const rlimit small{64 * 1024, 64 * 1024};
    if (::setrlimit(RLIMIT_MEMLOCK, &small) != 0 ||
        (::geteuid() == 0 && ::seteuid(65534) != 0)) {  // the superuser may lock what it wants
      throw std::runtime_error("no way to lower the limit");
    }
    const std::string text = lines_of_a_store();
    return text + (locked_bytes() == 0 ? "" : "something is locked\n");
  });
  EXPECT_EQ(end.exit_code, 0) << end.text;
  EXPECT_EQ(std::ranges::count(end.text, '\n'), 1) << end.text;
  for (const char* part : {"memory.pinned", "1.0 MiB", "64.0 KiB", "ulimit -l 1024"}) {
    EXPECT_THAT(end.text, HasSubstr(part));
  }
}

/// How pages are had: the policy of an address, and the nodes that it allows.
std::pair<int, unsigned long> policy_of(const void* at) {
  int mode = -1;
  unsigned long nodes[16] = {};
  const long done = ::syscall(SYS_get_mempolicy, &mode, nodes, 1024, at, MPOL_F_ADDR);
  return {done == 0 ? mode : -1, nodes[0]};
}
int node_of(const void* at) {
  int node = -1;
  return ::syscall(SYS_get_mempolicy, &node, nullptr, 0, at, MPOL_F_NODE | MPOL_F_ADDR) == 0 ? node
                                                                                             : -1;
}

/// A page that the product knows nothing of.
bool may_bind(int node) {
  const auto size = static_cast<std::size_t>(kPage);
  void* const data =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const unsigned long nodes[16] = {1ul << node};
  const bool granted =
      data != MAP_FAILED && ::syscall(SYS_mbind, data, size, MPOL_BIND, nodes, 1024, 0) == 0;
  if (data != MAP_FAILED) {
    ::munmap(data, size);
  }
  return granted;
}

TEST(MemoryArenas, PagesAreOfTheNodeThatIsNamed) {
  for (const NumaNode& node : numa_nodes()) {
    std::vector<std::string> lines;
    const auto arenas = make_arenas(plan_of(kFar, 8 * kPage),
                                    {{kFar, 8 * kPage}},
                                    {.far_node = node.number, .warn = [&](std::string_view line) {
                                       lines.emplace_back(line);
                                     }});
    const auto bytes = arenas.at(kFar).range(0, 8 * kPage);
    const auto [mode, allowed] = policy_of(bytes.data());
    if (!may_bind(node.number) || mode < 0) {
      GTEST_SKIP() << "needs the right to bind memory to node " << node.number;
    }
    EXPECT_TRUE(lines.empty()) << lines.front();
    EXPECT_EQ(mode, MPOL_BIND);
    EXPECT_EQ(allowed, 1ul << node.number);
    std::memset(bytes.data(), 1, bytes.size());
    EXPECT_EQ(node_of(bytes.data() + 7 * kPage), node.number);
  }
}

TEST(MemoryArenas, ANodeThatIsNotThereCostsALine) {
  std::vector<std::string> lines;
  make_arenas(plan_of(kFar, kPage), {{kFar, kPage}}, {.far_node = 999, .warn = [&](auto line) {
                                                        lines.emplace_back(line);
                                                      }});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("node 999"));
}

TEST(MemoryArenas, FarMemoryIsOfAnotherNodeOrALineSaysThatThereIsNone) {
  std::vector<std::string> lines;
  const auto arenas = make_arenas(plan_of(kFar, kPage), {{kFar, kPage}}, {.warn = [&](auto line) {
                                    lines.emplace_back(line);
                                  }});
  const auto bytes = arenas.at(kFar).range(0, kPage);
  std::memset(bytes.data(), 1, bytes.size());
  if (const auto other = far_node_of(numa_nodes())) {
    EXPECT_TRUE(lines.empty()) << lines[0];
    EXPECT_EQ(node_of(bytes.data()), *other);
  } else {
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_THAT(lines[0], HasSubstr("memory.far"));
    EXPECT_THAT(lines[0], HasSubstr("one node"));
    GTEST_SKIP() << "far memory itself needs a machine with two nodes of memory";
  }
}

class ListedNodes : public testing::Test {
 protected:
  void node(int number, const std::string& cores, int total_kib, int free_kib) {
    const auto folder = root_ / ("node" + std::to_string(number));
    std::filesystem::create_directories(folder);
    const std::string name = "Node " + std::to_string(number);
    std::ofstream(folder / "meminfo") << name << " MemTotal:       " << total_kib << " kB\n"
                                      << name << " MemFree:        " << free_kib << " kB\n";
    std::ofstream(folder / "cpulist") << cores << "\n";
  }
  std::vector<NumaNode> listed(const std::string& online, int core) {
    std::ofstream(root_ / "online") << online << "\n";
    return numa_nodes_listed(root_.path(), core);
  }
  tests::TempDir root_;
};

TEST_F(ListedNodes, AreThoseOnlineWithTheirBytesAndCores) {
  node(0, "0-3,8-11", 1000, 100);
  node(1, "4-7", 2000, 200);
  node(2, "", 4000, 300);
  node(3, "12", 0, 0);  // of cores alone
  node(7, "", 5000, 500);
  const auto nodes = listed("0-3", 5);
  ASSERT_EQ(nodes.size(), 3u);
  for (int n = 0; n < 3; ++n) {
    const NumaNode& of = nodes[static_cast<std::size_t>(n)];
    EXPECT_EQ(of.number, n);
    EXPECT_EQ(of.total_bytes, (1024 << n) * 1000) << n;
    EXPECT_EQ(of.free_bytes, 1024 * 100 * (n + 1)) << n;
    EXPECT_EQ(of.has_cores, n < 2) << n;
    EXPECT_EQ(of.here, n == 1) << n;
  }
  const auto more = listed("0-1,7", 9);
  ASSERT_EQ(more.size(), 3u);
  EXPECT_EQ(more[2].number, 7);
  EXPECT_TRUE(more[0].here);
  EXPECT_TRUE(numa_nodes_listed(root_ / "nothing", 0).empty());
}

TEST_F(ListedNodes, FarIsWithoutCoresOrElsewhere) {
  node(0, "0-3", 1000, 100);
  EXPECT_EQ(far_node_of(listed("0", 0)), std::nullopt);
  node(1, "4-7", 1000, 100);
  EXPECT_EQ(far_node_of(listed("0-1", 0)), 1);
  EXPECT_EQ(far_node_of(listed("0-1", 4)), 0);
  node(2, "", 1000, 100);
  EXPECT_EQ(far_node_of(listed("0-2", 0)), 2);
  EXPECT_EQ(far_node_of(listed("0-2", 4)), 2);
}

TEST(Nodes, OfThisMachineAreThoseOfTheKernel) {
  const auto kernel = numa_nodes_listed("/sys/devices/system/node", 0), found = numa_nodes();
  if (kernel.empty()) {
    GTEST_SKIP() << "needs /sys/devices/system/node";
  }
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(std::ranges::count(found, true, &NumaNode::here), 1);
  for (const NumaNode& node : found) {
    const auto same = std::ranges::find(kernel, node.number, &NumaNode::number);
    ASSERT_NE(same, kernel.end()) << node.number;
    EXPECT_EQ(node.has_cores, same->has_cores);
    EXPECT_GT(node.total_bytes, 0);
    EXPECT_LE(node.free_bytes, same->total_bytes);
  }
}

}  // namespace
}  // namespace strata::offload
