#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "core/cpu/simd.h"
#include "core/matmul.h"
#include "core/parallel_for.h"
#include "launch/assemble.h"
#include "models/config.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_offloading.h"
#include "tests/support/allocation_count.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

using tests::AllocationCount;

constexpr int kWarmUp = 5;
constexpr int kSteps = 50;
constexpr int kThreads = 5;  // more than some of the small loops have work for

/// Speculative updates and recompute ride on the layer-major order, so that all are seen without a
/// test for each combination.
Computation computation_of(const std::string& preset, Order order, DType dtype) {
  Computation c;
  c.model = models::preset(preset);
  c.model.L = 2;
  c.model.dropout = 0.1f;
  c.B = 2;
  c.T = 32;
  c.G = 2;
  c.dtype = dtype;
  c.order = order;
  c.update = order == Order::layer_major ? UpdateMode::speculative : UpdateMode::after_norm;
  if (order == Order::layer_major) {
    c.recompute = {offload::Recompute::block, offload::Recompute::elementwise};
  }
  return c;
}

/// A model in training on random tokens; every third step is clipped, so that speculative updates
/// are committed and discarded.
class Training {
 public:
  explicit Training(const Computation& c)
      : batches_(random_batches(c)),
        loss_tokens_(c.G * c.B * c.T),
        engine_(std::make_unique<Blueprint>(c),
                {{kDevice, std::int64_t{1} << 30}, {kHost, 1 << 30}, {kNvme, 1 << 30}},
                ranks_) {
    engine_.start(1, {});
  }

  Outcome step() {
    scalars_.inputs.info = {.step = ++done_, .seed = 1, .lr = 1e-4};
    scalars_.inputs.batches = batches_;
    scalars_.inputs.loss_tokens = loss_tokens_;
    scalars_.inputs.clip = done_ % 3 == 0 ? 1e-3 : 0.0;
    engine_.step(scalars_);
    return scalars_.outcome;
  }
  const Program& program() const { return engine_.blueprint().step_program(); }

 private:
  std::vector<MicroBatch> batches_;
  std::int64_t loss_tokens_;
  parallel::SelfCommunicator ranks_;
  Engine engine_;
  StepScalars scalars_;
  std::int64_t done_ = 0;
};

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/// Ours: the kernel lists workers of its own here too, which come and go with slow disks.
std::set<std::string> thread_ids() {
  std::set<std::string> ids;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm") >> std::ws, name);
    if (!name.starts_with("iou-")) {
      ids.insert(task.path().filename());
    }
  }
  return ids;
}

using Case = std::tuple<std::string, Order, DType>;

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto& [preset, order, dtype] = info.param;
  return preset.substr(preset.find('-') + 1) + (order == Order::layer_major ? "_layers_" : "_") +
         std::string(to_string(dtype));
}

class SteadyStateTest : public testing::TestWithParam<Case> {
 protected:
  SteadyStateTest() { set_thread_count(kThreads); }
  ~SteadyStateTest() override { set_thread_count(before_); }

 private:
  const int before_ = thread_count();
};

TEST_P(SteadyStateTest, AStepTakesNothingFromTheSystem) {
  if (!tests::counts_allocations()) {
    GTEST_SKIP() << "a sanitizer has malloc to itself: build with STRATA_SANITIZE empty";
  }
  Training training(std::apply(computation_of, GetParam()));
  for (int i = 0; i < kWarmUp; ++i) {
    training.step();
  }
  std::vector<AllocationCount> counts(kSteps);
  std::set<Outcome> outcomes{Outcome::clip_is_one, Outcome::clip_below_one};
  const std::set<std::string> threads = thread_ids();
  const std::int64_t faults = page_faults();
  for (AllocationCount& count : counts) {
    tests::start_counting_allocations();
    const Outcome outcome = training.step();
    count = tests::stop_counting_allocations();
    EXPECT_NE(outcome, Outcome::skip);
    outcomes.erase(outcome);
  }
  EXPECT_LE(page_faults() - faults, 50);
  EXPECT_EQ(thread_ids(), threads);
  EXPECT_EQ(threads.size(), kThreads);  // one team, of which this thread is a member
  EXPECT_TRUE(outcomes.empty());
  for (const AllocationCount& count : counts) {
    EXPECT_EQ(count.ours, 0);
    EXPECT_EQ(count.library, counts[0].library);
    EXPECT_EQ(count.library_bytes, counts[0].library_bytes);
  }
  // Were this 0 where the library multiplies, its allocations would be taken for somebody else's.
  const DType dtype = std::get<DType>(GetParam());
  const bool library = !matmul_kernel({.m = 1, .n = 1, .k = 1, .in = dtype}).starts_with("strata:");
  EXPECT_EQ(counts[0].library > 0, library);
  // Tables of arguments, never a buffer; the gemm of older machines takes memory for packed
  // operands.
  if (cpu::isa_level() == cpu::IsaLevel::avx512) {
    EXPECT_LT(counts[0].library_largest_bytes, 4096);
  }
  RecordProperty("library_allocations_a_step", static_cast<int>(counts[0].library));
  RecordProperty("library_bytes_a_step", static_cast<int>(counts[0].library_bytes));
}

INSTANTIATE_TEST_SUITE_P(Models,
                         SteadyStateTest,
                         testing::Combine(testing::Values("tiny-gpt2", "tiny-llama"),
                                          testing::Values(Order::micro_batch_major,
                                                          Order::layer_major),
                                          testing::Values(DType::f32, DType::bf16)),
                         name_of);

std::size_t open_files() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// Row-range buffers, tickets and rings are there from the start: transfers in three tiers take
/// nothing worth a name from the system.
TEST(OffloadedSteadyState, A15AStepTakesNothingFromTheSystem) {
  if (!tests::counts_allocations()) {
    GTEST_SKIP() << "a sanitizer has malloc to itself: build with STRATA_SANITIZE empty";
  }
  const tests::TempDir dir;
  int transfers_running_on = 0;
  for (const Update& update : {Update{UpdateMode::after_norm},
                               {UpdateMode::speculative},
                               {UpdateMode::lazy_forward},
                               {UpdateMode::hybrid, 2}}) {
    SCOPED_TRACE(update.name());
    Computation c = update.of(computation_of("tiny-llama", Order::layer_major, DType::f32));
    c.offloading = std::make_shared<const Offloading>(offloading(kAllInNvme, dir.path()));
    Training training(c);
    transfers_running_on += running_on(training.program());
    for (int i = 0; i < kWarmUp; ++i) {
      training.step();
    }
    const std::set<std::string> threads = thread_ids();
    const std::size_t files = open_files();
    const std::int64_t faults = page_faults();
    std::int64_t largest = 0;
    for (int k = 0; k < 100; ++k) {
      tests::start_counting_allocations();
      training.step();
      largest = std::max(largest, tests::stop_counting_allocations().ours_largest_bytes);
    }
    EXPECT_LE(largest, 4096);
    EXPECT_EQ(thread_ids(), threads);
    EXPECT_EQ(open_files(), files);
    EXPECT_LE(page_faults() - faults, 200);
  }
  EXPECT_GT(transfers_running_on, 0);
}

/// The counter itself: what it is to see, it sees.
TEST(AllocationCountTest, SeesEveryWayToAllocate) {
  if (!tests::counts_allocations()) {
    GTEST_SKIP() << "a sanitizer has malloc to itself: build with STRATA_SANITIZE empty";
  }
  tests::start_counting_allocations();
  void* volatile plain = std::malloc(10);
  void* volatile zeroed = std::calloc(2, 5);
  void* volatile aligned = std::aligned_alloc(64, 64);
  struct alignas(128) Line {
    char bytes[128];
  };
  const auto* volatile array = new int[4];
  const auto* volatile line = new Line;
  const std::string text(100, 'x');
  const AllocationCount count = tests::stop_counting_allocations();
  std::free(plain);
  std::free(zeroed);
  std::free(aligned);
  delete[] array;
  delete line;
  EXPECT_EQ(count.ours, 6);
  EXPECT_EQ(count.library, 0);
}

}  // namespace
}  // namespace strata::launch
