#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"

namespace strata::tests {
namespace {

using nlohmann::json;

TEST(Bench, AStepIsMeasuredAgainstItsOwnProducts) {
  const CommandEnd end = run_command({"bench",
                                      "step",
                                      "--model",
                                      "tiny-gpt2",
                                      "--batch",
                                      "2",
                                      "--seq",
                                      "64",
                                      "--steps",
                                      "3",
                                      "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.text();
  const json r = json::parse(end.out);
  EXPECT_GT(r["tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(r["steps"], 3);
  EXPECT_EQ(r["dtype"], "f32");
  EXPECT_EQ(r["spans_lost"], 0);
  EXPECT_EQ(r["peak_bytes"], r["planned_bytes"]);
  EXPECT_GT(r["peak_rss_bytes"].get<std::int64_t>(), r["planned_bytes"].get<std::int64_t>() / 2);
  const double seconds = r["step_seconds"]["median"], achieved = r["achieved_gflops"];
  // 6 (4 blocks of 12 C^2 + head V C) + 6 L T C a token, C 128, T 64, V 256.
  const double flops = 128 * (6.0 * (4 * 12 * 128 * 128 + 256 * 128) + 6.0 * 4 * 64 * 128);
  EXPECT_NEAR(achieved * seconds * 1e9 / flops, 1, 1e-9);
  EXPECT_NEAR(r["fraction_of_gemm"].get<double>(), achieved / r["gemm_gflops"].get<double>(), 1e-9);
  // Products: the same without attention's term.
  const double products = r["product_seconds"].get<double>() * r["gemm_gflops"].get<double>() * 1e9;
  EXPECT_NEAR(products / (128 * 6.0 * (4 * 12 * 128 * 128 + 256 * 128)), 1, 1e-9);
}

TEST(Bench, TimesByOpFitIntoTimesByPhase) {
  const CommandEnd end = run_command({"bench",
                                      "step",
                                      "--model",
                                      "tiny-llama",
                                      "--dtype",
                                      "bf16",
                                      "--batch",
                                      "1",
                                      "--seq",
                                      "32",
                                      "--micro-batches",
                                      "2",
                                      "--steps",
                                      "2",
                                      "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.text();
  const json r = json::parse(end.out);
  double ops = 0, phases = 0;
  for (const auto& [name, ms] : r["op_ms"].items()) {
    ops += ms.get<double>();
  }
  for (const auto& [name, ms] : r["phase_ms"].items()) {
    phases += ms.get<double>();
  }
  for (const char* name : {"linear.forward",
                           "linear.backward",
                           "attention.backward",
                           "swiglu.forward",
                           "rms_norm.backward",
                           "linear_cross_entropy.backward"}) {
    EXPECT_GT(r["op_ms"].value(name, 0.0), 0) << name;
  }
  EXPECT_GT(r["phase_ms"].value("update", 0.0), 0);
  EXPECT_LT(ops, r["phase_ms"]["forward"].get<double>() + r["phase_ms"]["backward"].get<double>());
  EXPECT_LT(phases, 2e3 * r["step_seconds"]["max"].get<double>());
}

TEST(Bench, WrongWordsAreAnswered) {
  const auto expect = [](std::vector<std::string> words, const std::string& needed) {
    const CommandEnd end = run_command(std::move(words));
    EXPECT_EQ(end.exit_code, 2) << end.text();
    EXPECT_NE(end.err.find(needed), std::string::npos) << end.text();
    EXPECT_EQ(end.out, "");
  };
  expect({"bench"}, "needs a subject");
  expect({"bench", "stepp"}, "did you mean 'step'");
  expect({"bench", "step", "--dtype", "f16"}, "f32 or bf16, got 'f16'");
  expect({"bench", "step", "--model", "gpt2-124"}, "gpt2-124m");
  expect({"bench", "step", "--batch", "0"}, "--batch needs 1 to");
  expect({"bench", "step", "--seq", "2000"}, "--seq needs 1 to 1024, got 2000");
  expect({"bench", "step", "--model", "tiny-gpt2", "--method", "adamv"}, "adamw");
}

}  // namespace
}  // namespace strata::tests
