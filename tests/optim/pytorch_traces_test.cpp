#include <cmath>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/optim/method_harness.h"
#include "tests/support/temp_dir.h"

namespace strata::optim {
namespace {

using nlohmann::json;
constexpr const char* kFile = "reference/pytorch-optim/optim_baseline_subset.json";

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

/// Gradient of the sum of outputs of sigmoid(W2 sigmoid(W1 x + b1) + b2) over the inputs, in the
/// file's layout: W1 (3, 2), b1 (3), W2 (1, 3), b2 (1).
std::vector<double> gradient(std::span<const double> p, const json& inputs) {
  std::vector<double> g(13, 0.0);
  for (const json& input : inputs) {
    const double x[2] = {input[0], input[1]};
    double hidden[3], sum = p[12];
    for (std::size_t j = 0; j < 3; ++j) {
      hidden[j] = sigmoid(p[2 * j] * x[0] + p[2 * j + 1] * x[1] + p[6 + j]);
      sum += p[9 + j] * hidden[j];
    }
    const double y = sigmoid(sum);
    const double dy = y * (1 - y);
    g[12] += dy;
    for (std::size_t j = 0; j < 3; ++j) {
      const double dh = dy * p[9 + j] * hidden[j] * (1 - hidden[j]);
      g[9 + j] += dy * hidden[j];
      g[6 + j] += dh;
      g[2 * j] += dh * x[0];
      g[2 * j + 1] += dh * x[1];
    }
  }
  return g;
}

void follow(const std::string& name, const std::string& method, std::vector<Setting> settings) {
  const auto path = tests::test_data(kFile);
  if (path.empty()) {
    GTEST_SKIP() << kFile << " is absent";
  }
  const json file = json::parse(std::ifstream(path));
  std::vector<double> start;
  for (const char* part : {"0.weight", "0.bias", "2.weight", "2.bias"}) {
    for (const double value : file["init_exact_float64_recovered"][part]) {
      start.push_back(value);
    }
  }
  const json& one = file["cases"][name];
  ASSERT_FALSE(one.is_null()) << name;
  MethodHarness<double> run(method, std::move(settings), start);
  std::size_t compared = 0;
  for (int it = 0; it <= 1000; ++it) {
    run.step(gradient(run.weights(), file["input"]), one["options"]["lr"]);
    if (one["at"].contains(std::to_string(it))) {
      const json& wanted = one["at"][std::to_string(it)];
      for (std::size_t i = 0; i < 13; ++i, ++compared) {
        const double want = wanted[i];
        EXPECT_NEAR(run.weights()[i], want, 1e-12 * std::abs(want)) << "step " << it << ", " << i;
      }
    }
  }
  EXPECT_EQ(compared, 13 * one["at"].size());
}

TEST(PyTorchTraces, AdamW) {
  follow("AdamW", "adamw", {{"beta2", "0.999"}, {"weight_decay", "0.01"}});
}

TEST(PyTorchTraces, AdamWithoutDecay) {
  follow(
      "AdamW_without_weight_decay (== Adam)", "adamw", {{"beta2", "0.999"}, {"weight_decay", "0"}});
}

TEST(PyTorchTraces, Sgd) {
  follow("SGD", "sgd", {});
}

TEST(PyTorchTraces, SgdWithMomentumAndDecay) {
  follow(
      "SGD_with_weight_decay_and_momentum", "sgd", {{"momentum", "0.9"}, {"weight_decay", "0.01"}});
}

}  // namespace
}  // namespace strata::optim
