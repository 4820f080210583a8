// What strata bench step found, for people.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "launch/bench.h"
#include "offload/planner.h"

namespace strata::launch {
namespace {

using nlohmann::json;

void print_times(const char* title, const json& times) {
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [name, ms] : times.items()) {
    sorted.emplace_back(-ms.get<double>(), name);
  }
  std::sort(sorted.begin(), sorted.end());
  std::printf("%s\n", title);
  for (const auto& [ms, name] : sorted) {
    std::printf("  %-26s %9.2f ms\n", name.c_str(), -ms);
  }
}

}  // namespace

void print_step_report(const json& r) {
  std::printf("%s B %lld T %lld %s, %s, %d threads, %s\n",
              r["model"].get<std::string>().c_str(),
              static_cast<long long>(r["batch"].get<std::int64_t>()),
              static_cast<long long>(r["seq"].get<std::int64_t>()),
              r["dtype"].get<std::string>().c_str(),
              r["machine"]["processor"].get<std::string>().c_str(),
              r["machine"]["threads"].get<int>(),
              r["machine"]["matmul"].get<std::string>().c_str());
  std::printf("%.1f tokens/s; step %.1f ms (%.1f to %.1f)\n",
              r["tokens_per_second"].get<double>(),
              1e3 * r["step_seconds"]["median"].get<double>(),
              1e3 * r["step_seconds"]["min"].get<double>(),
              1e3 * r["step_seconds"]["max"].get<double>());
  std::printf("%.1f GFLOP/s of %.1f that its matrix products reach alone: %.3f\n",
              r["achieved_gflops"].get<double>(),
              r["gemm_gflops"].get<double>(),
              r["fraction_of_gemm"].get<double>());
  std::printf("memory: recompute %s (%.1f %% more work), planned %s, ledger %s, resident set %s\n",
              r["recompute"].get<std::string>().c_str(),
              r["recompute_percent"].get<double>(),
              offload::bytes_text(r["planned_bytes"].get<std::int64_t>()).c_str(),
              offload::bytes_text(r["peak_bytes"].get<std::int64_t>()).c_str(),
              offload::bytes_text(r["peak_rss_bytes"].get<std::int64_t>()).c_str());
  print_times("by phase", r["phase_ms"]);
  print_times("by op", r["op_ms"]);
  std::printf("products (m x n x k), in the step and alone\n");
  for (const json& p : r["products"]) {
    std::printf(
        "  %6lld x %6lld x %6lld %-3s %4s%s %6.1f times %9.2f ms %7.1f GFLOP/s %7.1f alone\n",
        static_cast<long long>(p["m"].get<std::int64_t>()),
        static_cast<long long>(p["n"].get<std::int64_t>()),
        static_cast<long long>(p["k"].get<std::int64_t>()),
        p["form"].get<std::string>().c_str(),
        p["out"].get<std::string>().c_str(),
        p["accumulate"].get<bool>() ? "+=" : "= ",
        p["runs_per_step"].get<double>(),
        p["ms_per_step"].get<double>(),
        p["step_gflops"].get<double>(),
        p["alone_gflops"].get<double>());
  }
}

}  // namespace strata::launch
