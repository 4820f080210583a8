// strata bench optim: the update of a method on matrices that no cache holds, against what copying
// the same memory reaches in the same minute.
#include <algorithm>
#include <cstdio>
#include <functional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/args.h"
#include "launch/bench.h"
#include "launch/update_bench.h"

namespace strata::launch {
namespace {

using nlohmann::json;

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench optim",
              words,
              {},
              {{"--method", "adamw", "optimizer"},
               {"--settings", "", "of the optimizer, such as rank=64,scale=0.5"},
               {"--params", "100000000", "parameters that are updated", integer},
               {"--dtype", "f32", "of the weights: f32, or bf16 beside an f32 master"},
               {"--repeats", "9", "updates timed, after two that are not", integer},
               {"--json", "", "print one JSON object", flag}});
}

std::int64_t count(const Args& args, const std::string& name, std::int64_t most) {
  const std::int64_t value = args.integer(name);
  if (value < 1 || value > most) {
    throw Error(Errc::config,
                fmt::format("bench optim: {} needs 1 to {}, got {}", name, most, value));
  }
  return value;
}

/// Work of a known size, timed between two copies, again and again: memory that others use too
/// gives now more and now less, to both alike.
class Beside {
 public:
  Beside(const Copy& copy, double gigabytes, std::function<void()> work)
      : copy_(copy), gigabytes_(gigabytes), work_(std::move(work)) {}
  void repeat() {
    const double before = seconds_of([&] { copy_.run(); });
    const double seconds = seconds_of(work_);
    const double after = seconds_of([&] { copy_.run(); });
    const double copied = 2 * copy_.gigabytes() / (before + after);
    seconds_.push_back(seconds);
    copied_.push_back(copied);
    fractions_.push_back(gigabytes_ / seconds / copied);
  }
  const std::vector<double>& seconds() const { return seconds_; }
  const std::vector<double>& copied() const { return copied_; }
  double gigabytes_per_second() const { return gigabytes_ / median(seconds_); }
  double fraction() const { return median(fractions_); }

 private:
  const Copy& copy_;
  double gigabytes_;
  std::function<void()> work_;
  std::vector<double> seconds_, copied_, fractions_;
};

json measure(UpdateBench& bench, std::int64_t params, std::int64_t repeats) {
  const Copy copy;
  copy.run();
  for (int warm_up = 0; warm_up < 2; ++warm_up) {
    bench.norm();
    bench.update();
  }
  const auto numel = static_cast<double>(params);
  Beside update(copy, 1e-9 * static_cast<double>(bench.bytes()), [&] { bench.update(); });
  Beside norm(copy, 4e-9 * numel, [&] { bench.norm(); });
  for (std::int64_t i = 0; i < repeats; ++i) {
    update.repeat();
    norm.repeat();
  }
  const double middle = median(update.seconds());
  const auto [least, most] = std::minmax_element(update.seconds().begin(), update.seconds().end());
  return {{"update_seconds", {{"median", middle}, {"min", *least}, {"max", *most}}},
          {"ns_per_param", 1e9 * middle / numel},
          {"bytes_per_param", static_cast<double>(bench.bytes()) / numel},
          {"gigabytes_per_second", update.gigabytes_per_second()},
          {"copy_gigabytes_per_second", median(update.copied())},
          {"fraction_of_copy_bandwidth", update.fraction()},
          {"norm_gigabytes_per_second", norm.gigabytes_per_second()},
          {"norm_fraction_of_copy_bandwidth", norm.fraction()}};
}

void print_report(const json& r) {
  const auto number = [&](const char* name) { return r[name].get<double>(); };
  std::printf("%s, %lld parameters, %s, %s, %d threads, %s\n",
              r["method"].get<std::string>().c_str(),
              static_cast<long long>(r["params"].get<std::int64_t>()),
              r["dtype"].get<std::string>().c_str(),
              r["machine"]["processor"].get<std::string>().c_str(),
              r["machine"]["threads"].get<int>(),
              r["machine"]["isa"].get<std::string>().c_str());
  std::printf("update %.2f ms (%.2f to %.2f): %.3f ns and %.2f bytes a parameter\n",
              1e3 * r["update_seconds"]["median"].get<double>(),
              1e3 * r["update_seconds"]["min"].get<double>(),
              1e3 * r["update_seconds"]["max"].get<double>(),
              number("ns_per_param"),
              number("bytes_per_param"));
  std::printf("%.1f GB/s; a copy past the cache reaches %.1f: %.3f of it\n",
              number("gigabytes_per_second"),
              number("copy_gigabytes_per_second"),
              number("fraction_of_copy_bandwidth"));
  std::printf("norm of the gradient: %.1f GB/s, %.3f of the copy\n",
              number("norm_gigabytes_per_second"),
              number("norm_fraction_of_copy_bandwidth"));
}

}  // namespace

int bench_optim(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  const std::int64_t params = count(args, "--params", std::int64_t{1} << 40);
  const std::int64_t repeats = count(args, "--repeats", 1 << 20);
  const DType dtype = dtype_of_word("bench optim", args.text("--dtype"));
  UpdateBench bench(args.text("--method"), settings_of(args.text("--settings")), params, dtype);
  json report = measure(bench, params, repeats);
  report["method"] = args.text("--method");
  report["settings"] = args.text("--settings");
  report["params"] = params;
  report["dtype"] = args.text("--dtype");
  report["repeats"] = repeats;
  report["machine"] = machine_json();
  args.flag("--json") ? (void)std::printf("%s\n", report.dump().c_str()) : print_report(report);
  return 0;
}

}  // namespace strata::launch
