#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/optim/method_harness.h"
#include "tests/support/reference_optim.h"

namespace strata::optim {
namespace {

using tests::AdamWReference;
using tests::Noise;

std::vector<float> noise(std::size_t n, std::uint64_t seed, float scale = 1.f) {
  Noise source(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    value = scale * source.next();
  }
  return values;
}

struct Vector {
  const char *family, *eps;
  double after[3];
};

// Spec 1.1: start 1, gradients 0.5, -0.25, 0.125, lr 0.1, betas 0.9 and 0.999, decay 0.1.
TEST(AdamW, EveryFamilyMeetsItsCheckVector) {
  const Vector vectors[] = {
      {"pytorch", "1e-8", {0.890000002000, 0.854466298688, 0.811878721910}},
      {"bnb", "1e-8", {0.891000001980, 0.855722635701, 0.813462924691}},
      {"hf", "1e-8", {0.891000062613, 0.855722709982, 0.813463015831}},
      {"pytorch", "1e-2", {0.891960784314, 0.857064729064, 0.815450663186}},
      {"hf", "1e-2", {0.929355162786, 0.903223264108, 0.872482870096}},
  };
  for (const Vector& vector : vectors) {
    const std::vector<Setting> settings{{"family", vector.family},
                                        {"eps", vector.eps},
                                        {"beta2", "0.999"},
                                        {"weight_decay", "0.1"}};
    MethodHarness<double> exact("adamw", settings, {1.0});
    MethodHarness<float> single("adamw", settings, {1.f});
    const double gradients[] = {0.5, -0.25, 0.125};
    for (int t = 0; t < 3; ++t) {
      const double g[] = {gradients[t]};
      const float g_single[] = {static_cast<float>(gradients[t])};
      exact.step(g, 0.1);
      single.step(g_single, 0.1);
      EXPECT_NEAR(exact.weights()[0], vector.after[t], 5.1e-13) << vector.family << vector.eps << t;
      EXPECT_NEAR(single.weights()[0], vector.after[t], 3e-7) << vector.family << vector.eps << t;
    }
  }
}

/// 1000 random steps beside the float64 twin, norm-wise and element by element.
void stay_near_float64(const char* name, AdamWReference::Family family, std::size_t numel) {
  AdamWReference reference{.family = family, .beta2 = 0.95, .weight_decay = 0.1, .m = {}, .v = {}};
  const std::vector<float> start = noise(numel, 1);
  MethodHarness<float> run("adamw", {{"family", name}}, start);
  std::vector<double> want(start.begin(), start.end()), g_wide(numel);
  std::vector<float> g(numel);
  Noise source(2);
  for (int t = 1; t <= 1000; ++t) {
    for (std::size_t i = 0; i < numel; ++i) {
      g[i] = source.next();
      g_wide[i] = 0.5 * static_cast<double>(g[i]);
    }
    run.step(g, 1e-3, 0.5f);
    reference.step(want, g_wide, 1e-3, t);
  }
  const std::vector<double> got = run.as_double();
  EXPECT_LE(tests::relative_distance(got, want), 2e-6) << name;
  for (std::size_t i = 0; i < numel; ++i) {
    ASSERT_NEAR(got[i], want[i], 1e-3 * std::max(std::abs(want[i]), 1e-3)) << name << i;
  }
}

TEST(AdamW, ThousandStepsStayNearFloat64InEveryFamily) {
  stay_near_float64("pytorch", AdamWReference::Family::pytorch, 5'003);
  stay_near_float64("bnb", AdamWReference::Family::bnb, 5'003);
  stay_near_float64("hf", AdamWReference::Family::hf, 5'003);
}

TEST(AdamW, SlowThousandStepsOfManyElementsStayNearFloat64) {
  stay_near_float64("pytorch", AdamWReference::Family::pytorch, 100'003);
}

/// Weights, state and bf16 copy after some steps, under every level and number of threads.
void expect_same_bytes_every_way(const char* family,
                                 const std::vector<float>& start,
                                 const std::vector<float>& g,
                                 int steps) {
  std::vector<float> first;
  std::vector<bf16> first_working;
  for_every_way_to_run([&] {
    MethodHarness<float> run("adamw", {{"family", family}}, start);
    run.keep_working_copy();
    for (int t = 0; t < steps; ++t) {
      run.step(g, 1e-3, 0.7f);
    }
    const std::vector<float> now = run.everything();
    const std::vector<bf16> working(run.working().begin(), run.working().end());
    if (first.empty()) {
      first = now;
      first_working = working;
    }
    ASSERT_EQ(std::memcmp(now.data(), first.data(), now.size() * sizeof(float)), 0) << family;
    ASSERT_EQ(std::memcmp(working.data(), first_working.data(), working.size() * sizeof(bf16)), 0)
        << family;
  });
}

TEST(AdamW, BytesDoNotDependOnThreadsOrInstructionSet) {
  const std::vector<float> start = noise(3 * 4096 + 37, 3), g = noise(start.size(), 4, 1e-2f);
  for (const char* family : {"pytorch", "bnb", "hf"}) {
    expect_same_bytes_every_way(family, start, g, 5);
  }
}

TEST(AdamW, BytesOfManyElementsDoNotDependOnThreadsOrInstructionSet) {
  // Weights and state are larger than a second-level cache.
  const std::vector<float> start = noise(200 * 4096 + 5, 3), g = noise(start.size(), 4, 1e-2f);
  expect_same_bytes_every_way("pytorch", start, g, 1);
}

/// Least time of a step on values that a cache holds.
double seconds_at(cpu::IsaLevel level, const char* working) {
  cpu::force_isa_level(level);
  const std::vector<float> g = noise(1 << 14, 2);
  MethodHarness<float> run("adamw", {}, noise(g.size(), 1));
  if (std::string_view(working) == "bf16") {
    run.keep_working_copy();
  }
  double least = 1;
  for (int t = 0; t < 500; ++t) {
    const auto start = std::chrono::steady_clock::now();
    run.step(g, 1e-3);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    least = std::min(least, taken.count());
  }
  return least;
}

// One element at a time, the step takes six times as long.
TEST(AdamW, SlowIsVectorisedForEveryLevelWithFma) {
  const cpu::IsaLevel best = cpu::isa_level();
  if (best < cpu::IsaLevel::avx512) {
    GTEST_SKIP() << "needs AVX-512 to compare with";
  }
  const int threads = thread_count();
  set_thread_count(1);
  for (const char* working : {"none", "bf16"}) {
    const double narrow = seconds_at(cpu::IsaLevel::avx2, working);
    const double wide = seconds_at(cpu::IsaLevel::avx512, working);
    EXPECT_LT(narrow, 4 * wide) << "working copy: " << working;
  }
  cpu::force_isa_level(best);
  set_thread_count(threads);
}

TEST(AdamW, ZeroLearningRateLeavesWeightsAndMovesMoments) {
  const std::vector<float> start = noise(1000, 5), g = noise(1000, 6);
  MethodHarness<float> run("adamw", {}, start);
  run.step(g, 0.0);
  EXPECT_EQ(std::memcmp(run.weights().data(), start.data(), 4000), 0);
  EXPECT_NEAR(run.everything()[1000], 0.1 * g[0], 1e-8);
}

TEST(AdamW, ZeroGradientsAndTinySizes) {
  for (const std::size_t numel : {0u, 1u, 3u, 17u}) {
    MethodHarness<float> run("adamw", {{"weight_decay", "0"}}, std::vector<float>(numel, 2.f));
    run.step(std::vector<float>(numel, 0.f), 0.1);
    for (const float w : run.weights()) {
      EXPECT_EQ(w, 2.f);
    }
  }
  MethodHarness<float> denormal("adamw", {{"weight_decay", "0"}}, {2.f});
  denormal.step(std::vector<float>{1e-40f}, 0.1);
  EXPECT_TRUE(std::isfinite(denormal.weights()[0]));
}

TEST(AdamW, DecayActsOnTheChosenRoles) {
  const auto decayed = [](const char* decay, Role role) {
    MethodHarness<float> run("adamw", {{"decay", decay}}, {1.f}, role);
    run.step(std::vector<float>{0.f}, 0.5);
    return run.weights()[0] < 1.f;
  };
  for (const Role role : {Role::matrix, Role::embed, Role::head, Role::vector}) {
    EXPECT_TRUE(decayed("all", role));
    EXPECT_EQ(decayed("no_vectors", role), role != Role::vector);
    EXPECT_EQ(decayed("matrices", role), role == Role::matrix);
  }
}

TEST(AdamW, WorkingCopyIsTheRoundedMaster) {
  const std::vector<float> start = noise(500, 7), g = noise(500, 8);
  MethodHarness<float> run("adamw", {}, start);
  run.keep_working_copy();
  run.step(g, 1e-2);
  for (std::size_t i = 0; i < 500; ++i) {
    ASSERT_EQ(run.working()[i].bits, to_bf16(run.weights()[i]).bits);
  }
}

}  // namespace
}  // namespace strata::optim
