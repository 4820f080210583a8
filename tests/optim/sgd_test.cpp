#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "tests/optim/method_harness.h"
#include "tests/support/reference_optim.h"

namespace strata::optim {
namespace {

using tests::Noise;
using tests::SgdReference;

// Spec 1.2: start 1, gradients 0.5, -0.25, 0.125, lr 0.1, momentum 0.9, decay 0.1.
TEST(Sgd, MeetsTheCheckVectors) {
  const struct {
    const char* nesterov;
    double after[3];
  } vectors[] = {{"false", {0.94, 0.9016, 0.845524}}, {"true", {0.886, 0.868066, 0.797156146}}};
  for (const auto& vector : vectors) {
    MethodHarness<double> run(
        "sgd",
        {{"momentum", "0.9"}, {"weight_decay", "0.1"}, {"nesterov", vector.nesterov}},
        {1.0});
    const double gradients[] = {0.5, -0.25, 0.125};
    for (int t = 0; t < 3; ++t) {
      const double g[] = {gradients[t]};
      run.step(g, 0.1);
      EXPECT_NEAR(run.weights()[0], vector.after[t], 1e-14) << vector.nesterov << t;
    }
  }
}

struct Case {
  const char* name;
  std::vector<Setting> settings;
  SgdReference reference;
};

std::vector<Case> cases() {
  SgdReference plain{.weight_decay = 0.01, .b = {}};
  SgdReference dampened{.momentum = 0.9, .dampening = 0.4, .weight_decay = 0.01, .b = {}};
  SgdReference nesterov{.momentum = 0.9, .weight_decay = 0.01, .nesterov = true, .b = {}};
  SgdReference decoupled{.momentum = 0.9, .weight_decay = 0.1, .decoupled = true, .b = {}};
  return {
      {"plain", {{"weight_decay", "0.01"}}, plain},
      {"dampened", {{"momentum", "0.9"}, {"dampening", "0.4"}, {"weight_decay", "0.01"}}, dampened},
      {"nesterov", {{"momentum", "0.9"}, {"nesterov", "true"}, {"weight_decay", "0.01"}}, nesterov},
      {"decoupled",
       {{"momentum", "0.9"}, {"decoupled", "true"}, {"weight_decay", "0.1"}},
       decoupled}};
}

TEST(Sgd, ThousandStepsStayNearFloat64) {
  constexpr std::size_t kNumel = 5'011;
  for (Case& one : cases()) {
    Noise source(11);
    std::vector<float> start(kNumel), g(kNumel);
    for (float& value : start) {
      value = source.next();
    }
    MethodHarness<float> run("sgd", one.settings, start);
    std::vector<double> want(start.begin(), start.end()), g_wide(kNumel);
    for (int t = 1; t <= 1000; ++t) {
      for (std::size_t i = 0; i < kNumel; ++i) {
        g[i] = source.next();
        g_wide[i] = 0.25 * static_cast<double>(g[i]);
      }
      run.step(g, 1e-2, 0.25f);
      one.reference.step(want, g_wide, 1e-2, t);
    }
    EXPECT_LE(tests::relative_distance(run.as_double(), want), 5e-6) << one.name;
  }
}

TEST(Sgd, FirstStepIsNotDampened) {
  MethodHarness<double> run("sgd", {{"momentum", "0.5"}, {"dampening", "0.75"}}, {0.0});
  run.step(std::vector<double>{1.0}, 1.0);
  EXPECT_EQ(run.weights()[0], -1.0);
  run.step(std::vector<double>{1.0}, 1.0);
  EXPECT_EQ(run.weights()[0], -1.75);
}

TEST(Sgd, NoMomentumNoState) {
  EXPECT_TRUE(MethodHarness<float>("sgd", {}, {1.f}).layout().empty());
  EXPECT_EQ(MethodHarness<float>("sgd", {{"momentum", "0.9"}}, {1.f}).layout().size(), 1u);
}

TEST(Sgd, BytesDoNotDependOnThreadsOrInstructionSet) {
  Noise source(12);
  std::vector<float> start(2 * 4096 + 19), g(start.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    start[i] = source.next();
    g[i] = source.next();
  }
  for (const Case& one : cases()) {
    std::vector<float> first;
    for_every_way_to_run([&] {
      MethodHarness<float> run("sgd", one.settings, start);
      for (int t = 0; t < 3; ++t) {
        run.step(g, 1e-2, 0.3f);
      }
      const std::vector<float> now = run.everything();
      first = first.empty() ? now : first;
      ASSERT_EQ(std::memcmp(now.data(), first.data(), now.size() * sizeof(float)), 0) << one.name;
    });
  }
}

TEST(Sgd, ZeroLearningRateLeavesWeights) {
  for (const Case& one : cases()) {
    MethodHarness<float> run("sgd", one.settings, {1.5f, -2.5f, 3e-30f});
    run.step(std::vector<float>{1.f, 2.f, 3.f}, 0.0);
    EXPECT_EQ(run.weights()[0], 1.5f);
    EXPECT_EQ(run.weights()[1], -2.5f);
    EXPECT_EQ(run.weights()[2], 3e-30f);
  }
}

}  // namespace
}  // namespace strata::optim
