#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"
#include "tests/support/mpirun.h"

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

json bench_update(const char* method, const char* dtype, const char* params) {
  const CommandEnd end = run_command({"bench",
                                      "optim",
                                      "--method",
                                      method,
                                      "--dtype",
                                      dtype,
                                      "--params",
                                      params,
                                      "--repeats",
                                      "1",
                                      "--json"});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  return end.exit_code == 0 ? json::parse(end.out) : json();
}

TEST(Bench, AnUpdateIsMeasuredAgainstACopy) {
  // One matrix of 4096 x 1024, one of three rows, one vector of five.
  const char* const params = "4197381";
  const struct {
    const char *method, *dtype;
    double bytes;  // gradient 4, weights 8, moments 8 each, working copy 2
  } cases[] = {{"adamw", "f32", 28}, {"adamw", "bf16", 30}, {"sgd", "f32", 12}};
  for (const auto& c : cases) {
    const json r = bench_update(c.method, c.dtype, params);
    ASSERT_TRUE(r.is_object());
    EXPECT_EQ(r["method"], c.method);
    EXPECT_EQ(r["dtype"], c.dtype);
    EXPECT_EQ(r["params"], 4197381);
    EXPECT_EQ(r["repeats"], 1);
    EXPECT_DOUBLE_EQ(r["bytes_per_param"].get<double>(), c.bytes);
    const double ns = r["ns_per_param"], rate = r["gigabytes_per_second"];
    const double copy = r["copy_gigabytes_per_second"], seconds = r["update_seconds"]["median"];
    EXPECT_GT(ns, 0);
    EXPECT_NEAR(seconds * 1e9 / 4197381 / ns, 1, 1e-9);
    EXPECT_NEAR(ns * rate / c.bytes, 1, 1e-9);
    EXPECT_NEAR(r["fraction_of_copy_bandwidth"].get<double>() * copy / rate, 1, 1e-9);
    EXPECT_GT(r["norm_gigabytes_per_second"].get<double>(), 0);
    EXPECT_GT(r["norm_fraction_of_copy_bandwidth"].get<double>(), 0);
    EXPECT_GE(r["machine"]["threads"].get<int>(), 1);
  }
}

TEST(Bench, AnUpdateOfFewParametersIsTimedToo) {
  EXPECT_DOUBLE_EQ(bench_update("adamw", "f32", "1")["bytes_per_param"].get<double>(), 28);
}

TEST(Bench, AnUpdateThatDoesNotFitIsRefused) {
  const CommandEnd end = run_command({"bench", "optim", "--params", "1000000000000"});
  EXPECT_EQ(end.exit_code, 3) << end.text();
  EXPECT_NE(end.err.find("lower --params"), std::string::npos) << end.text();
  EXPECT_EQ(end.out, "");
}

json bench_attention(std::vector<std::string> more) {
  std::vector<std::string> words{"bench", "attention", "--repeats", "2", "--json"};
  words.insert(words.end(), more.begin(), more.end());
  const CommandEnd end = run_command(std::move(words));
  EXPECT_EQ(end.exit_code, 0) << end.text();
  return end.exit_code == 0 ? json::parse(end.out) : json();
}

TEST(Bench, AttentionIsMeasuredByLengthAgainstProducts) {
  for (const char* dtype : {"f32", "bf16"}) {
    const json r = bench_attention(
        {"--heads", "4", "--head-dim", "8", "--kv-heads", "2", "--seq", "64,16", "--dtype", dtype});
    ASSERT_TRUE(r.is_object());
    EXPECT_EQ(r["dtype"], dtype);
    EXPECT_EQ(r["kv_heads"], 2);
    ASSERT_EQ(r["rows"].size(), 2u);
    for (const json& row : r["rows"]) {
      const double T = row["seq"], tokens = T * row["batch"].get<double>();
      EXPECT_EQ(tokens, 4096);
      const double ms =
          row["forward_ms"]["median"].get<double>() + row["backward_ms"]["median"].get<double>();
      EXPECT_LE(row["backward_ms"]["min"], row["backward_ms"]["median"]);
      EXPECT_NEAR(row["us_per_token"].get<double>() * tokens / ms, 1e3, 1e-6);
      const double gflops = row["gflops"], gemm = row["gemm_gflops"];
      EXPECT_NEAR(gflops * 1e6 * ms / (6 * T * 32 * tokens), 1, 1e-9);
      EXPECT_GT(gemm, 0);
      EXPECT_NEAR(row["fraction_of_gemm"].get<double>() * gemm / gflops, 1, 1e-9);
    }
    EXPECT_EQ(r["rows"][0]["seq"], 64);
    const double longest = r["rows"][0]["us_per_token"], shortest = r["rows"][1]["us_per_token"];
    EXPECT_NEAR(r["cost_growth"].get<double>() * shortest / longest, 1, 1e-9);
    EXPECT_EQ(r["seq_growth"], 4);
  }
}

TEST(Bench, AttentionTakesABatchAndAnyLength) {
  const json r = bench_attention({"--heads", "1", "--head-dim", "3", "--seq", "7", "--batch", "2"});
  EXPECT_EQ(r["rows"][0]["batch"], 2);
  EXPECT_EQ(r["kv_heads"], 1);
  EXPECT_EQ(r["cost_growth"], 1);
}

TEST(Bench, AttentionThatDoesNotFitIsRefused) {
  for (const auto& [option, value] : {std::pair("--batch", "4096"), {"--heads", "4096"}}) {
    const CommandEnd end = run_command(
        {"bench", "attention", "--seq", "1048576", "--head-dim", "4096", option, value});
    EXPECT_EQ(end.exit_code, 3) << end.text();
    EXPECT_NE(end.err.find("lower --seq"), std::string::npos) << end.text();
  }
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
  expect({"bench", "optin"}, "did you mean 'optim'");
  expect({"bench", "optim", "--method", "adamv"}, "did you mean 'adamw'");
  expect({"bench", "optim", "--dtype", "f64"}, "bench optim: --dtype needs f32 or bf16, got 'f64'");
  expect({"bench", "optim", "--params", "0"}, "--params needs 1 to");
  expect({"bench", "optim", "--params", "1e8"}, "--params");
  expect({"bench", "optim", "--repeats", "0"}, "--repeats needs 1 to");
  expect({"bench", "attention", "--seq", "256,"}, "--seq needs lengths");
  expect({"bench", "attention", "--seq", "256 512"}, "--seq needs lengths");
  expect({"bench", "attention", "--seq", "0"}, "--seq needs lengths");
  expect({"bench", "attention", "--seq", "512,4097"}, "512 does not divide 4097 tokens");
  expect({"bench", "attention", "--heads", "12", "--kv-heads", "5"}, "must divide the 12 heads");
  expect({"bench", "attention", "--head-dim", "0"}, "--head-dim needs 1 to");
}

TEST(Bench, SumsOverRanksAreTheFoldAndStandBesideTheLibrarys) {
  if (!has_mpirun()) {
    GTEST_SKIP() << "needs mpirun (package openmpi-bin)";
  }
  for (const char* path : {"window", "network"}) {
    const MpirunEnd end = run_mpirun(
        2,
        {STRATA_BINARY, "bench", "allreduce", "--size", "300KiB", "--repeats", "3", "--json"},
        {{"STRATA_COMM", path}});
    ASSERT_EQ(end.exit_code, 0) << end.text;  // not, if a sum differs from the fold
    const json r = json::parse(end.text.substr(end.text.find('{')));
    EXPECT_EQ(r["ranks"], 2);
    EXPECT_EQ(r["bytes"], 300 << 10);
    const json &ours = r["seconds"], &library = r["library_seconds"];
    EXPECT_GT(ours["min"].get<double>(), 0);
    EXPECT_GT(library["min"].get<double>(), 0);
    EXPECT_LE(r["library_over_ours"]["max"].get<double>(),
              library["max"].get<double>() / ours["min"].get<double>() * (1 + 1e-9));
  }
  const CommandEnd alone = run_command({"bench", "allreduce"});
  EXPECT_EQ(alone.exit_code, 2);
  EXPECT_NE(alone.err.find("mpirun"), std::string::npos) << alone.err;
  const CommandEnd size = run_command({"bench", "allreduce", "--size", "3 apples"});
  EXPECT_EQ(size.exit_code, 2);
  EXPECT_NE(size.err.find("3 apples"), std::string::npos) << size.err;
}

}  // namespace
}  // namespace strata::tests
