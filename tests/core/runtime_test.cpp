#include "core/runtime.h"

#include <atomic>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/memory_info.h"
#include "core/error.h"
#include "tests/support/temp_dir.h"

namespace strata {
namespace {

Runtime& cpu_runtime() {
  return runtime(DeviceKind::cpu);
}
Stream& lane(Lane which) {
  return cpu_runtime().stream(which);
}
void finish(Stream& stream) {
  cpu_runtime().wait_host(cpu_runtime().record(stream));
}

TEST(CpuRuntime, ComputeRunsInTheCallerAtOnce) {
  std::thread::id where;
  compute_stream().enqueue([&] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
  EXPECT_THROW(compute_stream().enqueue([] { throw Error(Errc::internal, "x"); }), Error);
  EXPECT_TRUE(cpu_runtime().done(cpu_runtime().record(compute_stream())));
}

TEST(CpuRuntime, ALaneKeepsOrderOnOneThreadOfItsOwn) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  for (int i = 0; i < 100; ++i) {
    lane(Lane::copy_in).enqueue([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
    });
  }
  finish(lane(Lane::copy_in));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  }
  EXPECT_EQ(std::count(threads.begin(), threads.end(), threads[0]), 100);
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(CpuRuntime, EventsOrderLanes) {
  std::promise<void> gate;
  std::atomic<int> stage{0};
  lane(Lane::copy_in).enqueue([&] {
    gate.get_future().wait();
    stage = 1;
  });
  const auto first = cpu_runtime().record(lane(Lane::copy_in));
  int seen = -1;
  cpu_runtime().wait(lane(Lane::copy_out), first);
  lane(Lane::copy_out).enqueue([&] { seen = stage; });
  const auto second = cpu_runtime().record(lane(Lane::copy_out));
  EXPECT_FALSE(cpu_runtime().done(first));
  EXPECT_FALSE(cpu_runtime().done(second));
  gate.set_value();
  cpu_runtime().wait_host(second);
  EXPECT_TRUE(cpu_runtime().done(first));
  EXPECT_EQ(seen, 1);
  cpu_runtime().wait(compute_stream(), first);  // done: returns at once
}

TEST(CpuRuntime, AnErrorWaitsForItsWaiterAndSkipsWhatFollows) {
  bool ran = false;
  lane(Lane::update).enqueue([] { throw Error(Errc::io, "disk full"); });
  lane(Lane::update).enqueue([&] { ran = true; });
  const auto event = cpu_runtime().record(lane(Lane::update));
  try {
    cpu_runtime().wait_host(event);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::io);
  }
  EXPECT_FALSE(ran);
  lane(Lane::update).enqueue([&] { ran = true; });  // seen: works again
  finish(lane(Lane::update));
  EXPECT_TRUE(ran);
}

TEST(CpuRuntime, AnErrorTravelsAlongWaits) {
  lane(Lane::copy_in).enqueue([] { throw Error(Errc::io, "torn read"); });
  const auto failed = cpu_runtime().record(lane(Lane::copy_in));
  bool ran = false;
  cpu_runtime().wait(lane(Lane::comm), failed);
  lane(Lane::comm).enqueue([&] { ran = true; });
  EXPECT_THROW(finish(lane(Lane::comm)), Error);
  EXPECT_FALSE(ran);
  EXPECT_THROW(cpu_runtime().wait(compute_stream(), failed), Error);
  EXPECT_NO_THROW(finish(lane(Lane::copy_in)));
  EXPECT_NO_THROW(finish(lane(Lane::comm)));
}

TEST(CpuRuntime, CopiesAndFills) {
  std::vector<std::byte> a(1000, std::byte{1}), b(1000);
  cpu_runtime().copy_async(b.data(), a.data(), 1000, lane(Lane::copy_out));
  cpu_runtime().fill_async(a.data(), std::byte{7}, 999, lane(Lane::copy_out));
  finish(lane(Lane::copy_out));
  EXPECT_EQ(b, std::vector<std::byte>(1000, std::byte{1}));
  EXPECT_EQ(a[998], std::byte{7});
  EXPECT_EQ(a[999], std::byte{1});
}

double process_cpu_seconds() {
  std::timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

TEST(CpuRuntime, IdleLanesSleep) {
  for (const Lane which : {Lane::copy_in, Lane::copy_out, Lane::update, Lane::comm}) {
    finish(lane(which));
  }
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(process_cpu_seconds() - before, 0.1);  // one spinning lane alone would use 0.2
}

TEST(Runtime, RefusesADeviceThatThisBuildLacks) {
  try {
    runtime(DeviceKind::cuda);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
  }
}

/// A root directory as the kernel would show it.
class MemoryInfoTest : public testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    const auto file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void SetUp() override {
    write("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n");
  }
  MemoryInfo info() { return cpu::host_memory_info(root_.path()); }
  tests::TempDir root_;
};

TEST_F(MemoryInfoTest, IsWhatTheSystemHasAvailable) {
  EXPECT_EQ(info().free_bytes, 600 * 1024);
  EXPECT_EQ(info().total_bytes, 1000 * 1024);
}

TEST_F(MemoryInfoTest, TheTightestGroupOfVersion2Binds) {
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/memory.max", "max\n");
  write("sys/fs/cgroup/job/step/memory.current", "5000\n");
  write("sys/fs/cgroup/job/memory.max", "100000\n");
  write("sys/fs/cgroup/job/memory.current", "90000\n");
  EXPECT_EQ(info().free_bytes, 10'000);
  EXPECT_EQ(info().total_bytes, 100'000);
  // Idle file pages are counted there, but are as good as free.
  write("sys/fs/cgroup/job/memory.stat", "anon 1\nactive_file 9\ninactive_file 30000\n");
  EXPECT_EQ(info().free_bytes, 40'000);
  write("sys/fs/cgroup/job/memory.current", "190000\n");
  EXPECT_EQ(info().free_bytes, 0);
}

TEST_F(MemoryInfoTest, AContainerSeesItsGroupAsTheRoot) {
  write("proc/self/cgroup", "0::/not/mounted/here\n");
  write("sys/fs/cgroup/memory.max", "300000\n");
  write("sys/fs/cgroup/memory.current", "100000\n");
  EXPECT_EQ(info().free_bytes, 200'000);
}

TEST_F(MemoryInfoTest, Version1Binds) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "400000\n");
  write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "100000\n");
  write("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n");
  EXPECT_EQ(info().free_bytes, 301'000);
}

TEST_F(MemoryInfoTest, SaysWhatIsMissing) {
  write("proc/meminfo", "MemTotal:  1000 kB\n");
  EXPECT_THROW(info(), Error);
}

TEST(MemoryInfo, OfThisMachineIsPlausible) {
  const MemoryInfo info = runtime(DeviceKind::cpu).memory_info();
  EXPECT_GT(info.free_bytes, 0);
  EXPECT_LE(info.free_bytes, info.total_bytes);
}

}  // namespace
}  // namespace strata
