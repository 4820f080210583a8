// strata bench optim: the update of a method on matrices that no cache holds, against what copying
// the same memory reaches in the same minute.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>

#include <emmintrin.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/parallel_for.h"
#include "launch/args.h"
#include "launch/bench.h"
#include "offload/resident_store.h"
#include "optim/registry.h"
#include "optim/updater.h"
#include "optim/weight_update.h"

namespace strata::launch {
namespace {

using nlohmann::json;

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::int64_t kRows = 4096, kColumns = 1024;
constexpr std::int64_t kCopyBytes = std::int64_t{256} << 20;  // of each of two arrays
constexpr PackKey kWeights{PackClass::weights, 0}, kGrads{PackClass::grads, 0},
    kState{PackClass::state, 0}, kTurnState{PackClass::turn_state, 0},
    kWorkspace{PackClass::workspace};

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

/// Matrices of (kRows, kColumns), then what is left: a matrix of fewer rows and a vector.
BlockSpec matrices(std::int64_t params) {
  BlockSpec spec{"bench", {}, {}};
  const auto add = [&](Role role, Shape shape) {
    const auto id = static_cast<TensorId>(spec.params.size());
    spec.params.push_back({{id, fmt::format("p.{}", id), role, shape}, {}});
  };
  for (std::int64_t i = 0; i < params / (kRows * kColumns); ++i) {
    add(Role::matrix, {kRows, kColumns});
  }
  if (const std::int64_t rows = params % (kRows * kColumns) / kColumns; rows > 0) {
    add(Role::matrix, {rows, kColumns});
  }
  if (const std::int64_t rest = params % kColumns; rest > 0) {
    add(Role::vector, {rest});
  }
  return spec;
}

/// Bytes that an update cannot do without: the gradient is read; weights, their copy in bf16 aside,
/// and every field of state are read and written.
std::int64_t least_bytes(const optim::Optimizer& method, const BlockSpec& spec, DType dtype) {
  std::int64_t bytes = 0;
  for (const ParamSpec& param : spec.params) {
    const std::int64_t each = 4 + 2 * 4 + (dtype == DType::bf16 ? size_bytes(dtype) : 0);
    bytes += param.info.shape.numel() * each +
             2 * optim::state_bytes(method, param.info, WeightFormat::f32, DType::f32);
  }
  return bytes;
}

/// A block of parameters under a method, with its packs in memory as in training.
class UpdateBench {
 public:
  UpdateBench(const std::string& method,
              std::span<const optim::Setting> settings,
              std::int64_t params,
              DType dtype);
  void norm() { updater_.norm({.op = Op::norm, .block = 0}, packs_, scalars_); }
  void update();
  std::int64_t bytes() const { return bytes_; }

 private:
  UpdateBench(std::shared_ptr<optim::Optimizer> method, const BlockSpec& spec, DType dtype);
  offload::Plan plan() const;

  optim::OptimizerUpdater updater_;
  std::int64_t bytes_;
  Ledger ledger_;
  std::unique_ptr<offload::ResidentStore> store_;
  Held packs_;
  StepScalars scalars_;
};

UpdateBench::UpdateBench(const std::string& method,
                         std::span<const optim::Setting> settings,
                         std::int64_t params,
                         DType dtype)
    : UpdateBench(optim::make_optimizer(method, settings), matrices(params), dtype) {}

UpdateBench::UpdateBench(std::shared_ptr<optim::Optimizer> method,
                         const BlockSpec& spec,
                         DType dtype)
    : updater_(method,
               {spec},
               {},
               0,
               dtype == DType::bf16 ? WeightFormat::bf16_master : WeightFormat::f32,
               dtype),
      bytes_(least_bytes(*method, spec, dtype)) {
  const offload::Plan placed = plan();
  const std::int64_t needed = placed.tiers.at(kDevice).arena_bytes + 2 * kCopyBytes;
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  if (needed > free) {
    throw Error(Errc::infeasible,
                fmt::format("bench optim: needs {} of memory, {} are free; lower --params",
                            offload::bytes_text(needed),
                            offload::bytes_text(free)));
  }
  store_ = std::make_unique<offload::ResidentStore>(placed, needed, ledger_);
  for (const auto& [key, size] : placed.sizes) {
    store_->create(key);
    packs_.add(store_->acquire(key));
  }
  const auto fill = [&](PackKey key, DType type) {
    const std::span<std::byte> pack = packs_[key];
    fill_random(
        Tensor(pack.data(), type, {static_cast<std::int64_t>(pack.size()) / size_bytes(type)}));
  };
  fill(kWeights, dtype);
  fill(kGrads, DType::f32);
  updater_.init_state(0, packs_[kWeights], packs_[kState]);
  updater_.init_turn(0, packs_[kWeights], packs_[kTurnState]);
  scalars_.inputs.info = {.step = 0, .seed = 1, .lr = 1e-4, .grad_scale = 0.5f};
}

offload::Plan UpdateBench::plan() const {
  const optim::BlockState& block = updater_.block(0);
  offload::Plan plan;
  plan.sizes = {{kWeights, block.weights.size_bytes},
                {kGrads, block.grads.size_bytes},
                {kState, block.state_bytes},
                {kTurnState, block.turn_state_bytes},
                {kWorkspace, updater_.workspace_bytes()}};
  std::int64_t end = 0;
  for (const auto& [key, size] : plan.sizes) {
    plan.offset[key] = end;
    end += (size + 4095) / 4096 * 4096;
  }
  plan.tiers[kDevice].arena_bytes = end;
  return plan;
}

void UpdateBench::update() {
  ++scalars_.inputs.info.step;
  const int phases = updater_.stat_phases();
  for (int phase = 0; phase < phases; ++phase) {
    updater_.stats({.op = Op::stats, .block = 0, .phase = phase}, packs_, scalars_);
  }
  updater_.update({.op = Op::update, .block = 0, .phase = phases}, packs_, scalars_);
}

/// Two arrays far larger than a cache, copied by stores that go past it: the least traffic that
/// moves so many bytes.
class Copy {
 public:
  Copy() : from_(kNumel, DType::f32), to_(kNumel, DType::f32) {}
  double gigabytes() const { return 2e-9 * static_cast<double>(kCopyBytes); }
  void run() const {
    parallel_for(kNumel, 1 << 12, [&](std::int64_t begin, std::int64_t end) {
      const float* const from = from_.tensor({kNumel}).data<float>();
      float* const to = to_.tensor({kNumel}).data<float>();
      for (std::int64_t i = begin; i < end; i += 4) {
        _mm_stream_ps(to + i, _mm_load_ps(from + i));
      }
      _mm_sfence();
    });
  }

 private:
  static constexpr std::int64_t kNumel = kCopyBytes / 4;
  RandomMemory from_, to_;
};

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
