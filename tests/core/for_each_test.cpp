#include "core/for_each.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/math.h"
#include "tests/support/matmul_shapes.h"
#include "tests/support/run_self.h"

namespace strata {
namespace {

/// Settings that must not change a bit, put back at the end.
class KeepsSettings {
 public:
  KeepsSettings() : threads_(thread_count()), level_(cpu::isa_level()) {}
  ~KeepsSettings() {
    set_thread_count(threads_);
    cpu::force_isa_level(level_);
  }

 private:
  int threads_;
  cpu::IsaLevel level_;
};

std::vector<cpu::IsaLevel> machine_levels() {
  std::vector<cpu::IsaLevel> levels;
  for (const cpu::IsaLevel level :
       {cpu::IsaLevel::base, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
    try {
      cpu::force_isa_level(level);
      levels.push_back(level);
    } catch (const Error&) {
      break;
    }
  }
  return levels;
}

/// AdamW in the form of a rule: products, sums, a root, a division, and what a compiler would like
/// to contract.
struct SampleRule {
  float *w, *m, *v;
  const float* g;
  STRATA_HD void operator()(std::int64_t i) const {
    m[i] = 0.9f * m[i] + 0.1f * g[i];
    v[i] = 0.95f * v[i] + 0.05f * g[i] * g[i];
    const float denominator = std::sqrt(v[i] * 1.7f) + 1e-8f;
    w[i] = fma_(-1e-3f, 0.1f * w[i] + m[i] * 1.3f / denominator, w[i]);
  }
};

constexpr std::int64_t kNumel = 5 * kChunk + 123;

/// Weights and both moments after one step. `shift`: elements by which each array starts later than
/// a cache line, another for each.
std::vector<float> run_rule(Stream& stream, std::int64_t shift = 0) {
  std::vector<Tensor> memory;
  const auto values = [&](std::uint64_t seed) {
    const Tensor from = tests::random_values(DType::f32, kNumel, seed);
    const auto begin = shift * static_cast<std::int64_t>(seed);
    memory.push_back(Tensor::zeros(DType::f32, {kNumel + begin}));
    float* const to = memory.back().data<float>() + begin;
    std::copy(from.data<float>(), from.data<float>() + kNumel, to);
    return Tensor(reinterpret_cast<std::byte*>(to), DType::f32, {kNumel});
  };
  const Tensor w = values(1), m = values(2), v = values(3), g = values(4);
  for (std::int64_t i = 0; i < kNumel; ++i) {
    v.data<float>()[i] = std::abs(v.data<float>()[i]);
  }
  for_each(stream,
           kNumel,
           SampleRule{w.data<float>(), m.data<float>(), v.data<float>(), g.data<float>()});
  Runtime& cpu_runtime = runtime(DeviceKind::cpu);
  cpu_runtime.wait_host(cpu_runtime.record(stream));
  std::vector<float> all;
  for (const Tensor& t : {w, m, v}) {
    all.insert(all.end(), t.data<float>(), t.data<float>() + kNumel);
  }
  return all;
}

TEST(ForEach, GivesTheSameBytesOnEveryLevelThreadCountAndLane) {
  const KeepsSettings keeps;
  cpu::force_isa_level(cpu::IsaLevel::base);
  set_thread_count(1);
  const std::vector<float> reference = run_rule(compute_stream());
  for (const cpu::IsaLevel level : machine_levels()) {
    cpu::force_isa_level(level);
    for (const int threads : {1, 2, 3, 8}) {
      set_thread_count(threads);
      const std::vector<float> got = run_rule(compute_stream());
      EXPECT_EQ(std::memcmp(got.data(), reference.data(), got.size() * sizeof(float)), 0)
          << cpu::to_string(level) << " on " << threads << " threads";
    }
    const std::vector<float> got = run_rule(runtime(DeviceKind::cpu).stream(Lane::update));
    EXPECT_EQ(std::memcmp(got.data(), reference.data(), got.size() * sizeof(float)), 0)
        << cpu::to_string(level) << " on the update lane";
  }
}

TEST(ForEach, GivesTheSameBytesWhereverItsArraysStart) {
  const KeepsSettings keeps;
  const std::vector<float> reference = run_rule(compute_stream());
  for (const cpu::IsaLevel level : machine_levels()) {
    cpu::force_isa_level(level);
    for (const std::int64_t shift : {1, 3, 4}) {
      const std::vector<float> got = run_rule(compute_stream(), shift);
      EXPECT_EQ(std::memcmp(got.data(), reference.data(), got.size() * sizeof(float)), 0)
          << cpu::to_string(level) << " starting " << shift << " elements later";
    }
  }
}

TEST(IsaLevel, EnvironmentLowersIt) {
  const char* asked = std::getenv("STRATA_ISA");
  if (asked == nullptr) {
    EXPECT_EQ(tests::run_self("IsaLevel.EnvironmentLowersIt", {{"STRATA_ISA", "base"}}), 0);
    EXPECT_EQ(tests::run_self("IsaLevel.EnvironmentLowersIt", {{"STRATA_ISA", "sse9"}}), 0);
  } else if (std::string(asked) == "base") {
    EXPECT_EQ(cpu::isa_level(), cpu::IsaLevel::base);
  } else {
    EXPECT_THROW(cpu::isa_level(), Error);
  }
}

}  // namespace
}  // namespace strata
