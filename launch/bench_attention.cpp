// strata bench attention: the attention of a block, forward and backward, by length of sequence,
// against the products of the linear layers around it.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/cpu/attention.h"
#include "core/parallel_for.h"
#include "launch/args.h"
#include "launch/bench.h"
#include "offload/planner.h"

namespace strata::launch {
namespace {

using nlohmann::json;

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::int64_t kRows = 1024;  // of the products

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench attention",
              words,
              {},
              {{"--heads", "12", "query heads", integer},
               {"--head-dim", "64", "channels of a head", integer},
               {"--kv-heads", "0", "key heads; 0: as many as query heads", integer},
               {"--seq", "256,1024,4096", "tokens of a sequence, one length or several"},
               {"--batch", "0", "sequences; 0: as many as make 4096 tokens or more", integer},
               {"--dtype", "f32", "f32 or bf16"},
               {"--repeats", "5", "runs timed, after one that is not", integer},
               {"--json", "", "print one JSON object", flag}});
}

constexpr std::int64_t kMost = 4096;  // of heads, channels, sequences: no product overflows

std::int64_t count(const Args& args, const std::string& name, std::int64_t least) {
  const std::int64_t value = args.integer(name);
  if (value < least || value > kMost) {
    throw Error(
        Errc::config,
        fmt::format("bench attention: {} needs {} to {}, got {}", name, least, kMost, value));
  }
  return value;
}

std::vector<std::int64_t> lengths(const std::string& text) {
  constexpr std::int64_t kLongest = 1 << 20;
  std::vector<std::int64_t> all;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    std::int64_t length = 0;
    const auto [stop, error] = std::from_chars(at, end, length);
    if (error != std::errc() || length < 1 || length > kLongest || (stop != end && *stop != ',')) {
      throw Error(Errc::config,
                  fmt::format("bench attention: --seq needs lengths from 1 to {} with commas "
                              "between, got '{}'",
                              kLongest,
                              text));
    }
    all.push_back(length);
    if (stop == end) {
      return all;
    }
    at = stop + 1;
  }
}

std::int64_t scratch_bytes(const cpu::AttentionDims& dims) {
  return std::max(cpu::attention_forward_scratch_bytes(dims),
                  cpu::attention_backward_scratch_bytes(dims));
}

/// Throws infeasible where neither attention nor the largest of the products may fit.
void require_memory(const cpu::AttentionDims& d, DType dtype) {
  const std::int64_t C = d.H * d.D, tokens = d.B * d.T;
  const std::int64_t attention = 4 * tokens * (d.H + d.K) * d.D * size_bytes(dtype) +
                                 4 * tokens * (d.H + 1) + scratch_bytes(d);
  const std::int64_t product = (4 * C * C + kRows * 5 * C) * size_bytes(dtype);
  const std::int64_t needed = std::max(attention, 2 * product);  // with a packed copy
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  if (needed > free) {
    throw Error(Errc::infeasible,
                fmt::format("bench attention: needs {} of memory, {} are free; lower --seq, "
                            "--batch or --heads",
                            offload::bytes_text(needed),
                            offload::bytes_text(free)));
  }
}

/// What is to be timed: one set of dimensions for each length.
struct Work {
  std::vector<cpu::AttentionDims> dims;
  DType dtype = DType::f32;
  std::int64_t repeats = 0;
};

Work work_of(const Args& args) {
  const std::int64_t H = count(args, "--heads", 1), K = count(args, "--kv-heads", 0);
  const std::int64_t D = count(args, "--head-dim", 1), batch = count(args, "--batch", 0);
  if (K > 0 && H % K != 0) {
    throw Error(Errc::config,
                fmt::format("bench attention: --kv-heads must divide the {} heads, got {}", H, K));
  }
  const std::vector<std::int64_t> seqs = lengths(args.text("--seq"));
  constexpr std::int64_t kTokens = 4096;
  const std::int64_t longest = *std::ranges::max_element(seqs);
  const std::int64_t tokens = (kTokens + longest - 1) / longest * longest;
  Work work{.dims = {},
            .dtype = dtype_of_word("bench attention", args.text("--dtype")),
            .repeats = count(args, "--repeats", 1)};
  for (const std::int64_t T : seqs) {
    if (batch == 0 && tokens % T != 0) {
      throw Error(Errc::config,
                  fmt::format("bench attention: a --seq of {} does not divide {} tokens, so that "
                              "lengths would differ in tokens; give --batch, or lengths that do",
                              T,
                              tokens));
    }
    work.dims.push_back({batch > 0 ? batch : tokens / T, T, H, K > 0 ? K : H, D, thread_count()});
    require_memory(work.dims.back(), work.dtype);
  }
  return work;
}

/// The operands of one attention, as a block of a model would lay them out.
class AttentionBench {
 public:
  AttentionBench(const cpu::AttentionDims& dims, DType dtype);
  void forward() const;
  void backward() const;

 private:
  Tensor queries(const RandomMemory& from) const {
    return from.tensor({dims_.B, dims_.T, dims_.H * dims_.D});
  }
  Tensor keys(const RandomMemory& from) const {
    return from.tensor({dims_.B, dims_.T, dims_.K * dims_.D});
  }
  Tensor lse() const { return lse_->tensor({dims_.B, dims_.H, dims_.T}); }
  std::span<std::byte> scratch(std::int64_t bytes) const { return scratch_.range(0, bytes); }

  cpu::AttentionDims dims_;
  std::optional<RandomMemory> q_, k_, v_, y_, dy_, dq_, dk_, dv_, lse_;
  Tensor documents_;  // (B, T): each sequence is one
  Arena scratch_;
};

AttentionBench::AttentionBench(const cpu::AttentionDims& dims, DType dtype) : dims_(dims) {
  const auto& [B, T, H, K, D, slices] = dims;
  for (auto* const tensor : {&q_, &y_, &dy_, &dq_}) {
    tensor->emplace(B * T * H * D, dtype);
  }
  for (auto* const tensor : {&k_, &v_, &dk_, &dv_}) {
    tensor->emplace(B * T * K * D, dtype);
  }
  lse_.emplace(B * H * T, DType::f32);
  documents_ = Tensor::zeros(DType::i32, {B, T});
  scratch_ = Arena(kDevice, scratch_bytes(dims), scratch_bytes(dims));
}

void AttentionBench::forward() const {
  cpu::attention_forward(queries(*y_),
                         lse(),
                         queries(*q_),
                         keys(*k_),
                         keys(*v_),
                         documents_,
                         dims_,
                         scratch(cpu::attention_forward_scratch_bytes(dims_)));
}

void AttentionBench::backward() const {
  const Tensor q = queries(*q_), k = keys(*k_), v = keys(*v_), y = queries(*y_), sums = lse();
  cpu::attention_backward({queries(*dq_)},
                          {keys(*dk_)},
                          {keys(*dv_)},
                          queries(*dy_),
                          {q, k, v, y, sums},
                          documents_,
                          dims_,
                          scratch(cpu::attention_backward_scratch_bytes(dims_)));
}

/// GFLOP/s of the products of a GPT-2 block of as many channels.
double linear_rate(const cpu::AttentionDims& d, DType dtype) {
  const std::int64_t C = d.H * d.D;
  std::vector<ProductUse> uses;
  for (const auto& [n, k] : {std::pair(3 * C, C), {C, C}, {4 * C, C}, {C, 4 * C}}) {
    uses.push_back({.shape = {.m = kRows, .n = n, .k = k, .in = dtype, .out = dtype}, .runs = 1});
  }
  return product_rate(uses).gflops();
}

json times_json(const std::vector<double>& seconds) {
  const auto [least, most] = std::ranges::minmax_element(seconds);
  return {{"median", 1e3 * median(seconds)}, {"min", 1e3 * *least}, {"max", 1e3 * *most}};
}

/// One length; the rates of the products are left to the caller.
json measure(const cpu::AttentionDims& d, DType dtype, std::int64_t repeats) {
  const AttentionBench bench(d, dtype);
  bench.forward();
  bench.backward();
  std::vector<double> forward, backward;
  for (std::int64_t i = 0; i < repeats; ++i) {
    forward.push_back(seconds_of([&] { bench.forward(); }));
    backward.push_back(seconds_of([&] { bench.backward(); }));
  }
  const double seconds = median(forward) + median(backward);
  const auto tokens = static_cast<double>(d.B * d.T);
  const double flops = 6.0 * static_cast<double>(d.T * d.H * d.D) * tokens;
  return {{"seq", d.T},
          {"batch", d.B},
          {"forward_ms", times_json(forward)},
          {"backward_ms", times_json(backward)},
          {"us_per_token", 1e6 * seconds / tokens},
          {"gflops", flops / seconds * 1e-9}};
}

json measure_all(const Work& work) {
  json rows = json::array();
  double before = linear_rate(work.dims[0], work.dtype);
  for (const cpu::AttentionDims& d : work.dims) {
    json row = measure(d, work.dtype, work.repeats);
    const double after = linear_rate(d, work.dtype);
    const double gemm = (before + after) / 2;
    row["gemm_gflops"] = gemm;
    row["gemm_gflops_before_after"] = {before, after};
    row["fraction_of_gemm"] = row["gflops"].get<double>() / gemm;
    rows.push_back(std::move(row));
    before = after;
  }
  const auto [shortest, longest] = std::ranges::minmax_element(
      rows, {}, [](const json& row) { return row["seq"].get<std::int64_t>(); });
  const auto ratio = [&, &low = *shortest, &high = *longest](const char* name) {
    return high[name].get<double>() / low[name].get<double>();
  };
  return {{"cost_growth", ratio("us_per_token")}, {"seq_growth", ratio("seq")}, {"rows", rows}};
}

void print_report(const json& r) {
  std::printf("%d heads of %d, %d key heads, %s, %s, %d threads, %s, %s\n",
              r["heads"].get<int>(),
              r["head_dim"].get<int>(),
              r["kv_heads"].get<int>(),
              r["dtype"].get<std::string>().c_str(),
              r["machine"]["processor"].get<std::string>().c_str(),
              r["machine"]["threads"].get<int>(),
              r["machine"]["isa"].get<std::string>().c_str(),
              r["machine"]["matmul"].get<std::string>().c_str());
  std::printf("       T      B  forward ms backward ms  us/token   GFLOP/s  products  fraction\n");
  for (const json& row : r["rows"]) {
    const auto number = [&](const char* name) { return row[name].get<double>(); };
    std::printf("%8lld %6lld %11.2f %11.2f %9.2f %9.1f %9.1f %9.3f\n",
                static_cast<long long>(row["seq"].get<std::int64_t>()),
                static_cast<long long>(row["batch"].get<std::int64_t>()),
                row["forward_ms"]["median"].get<double>(),
                row["backward_ms"]["median"].get<double>(),
                number("us_per_token"),
                number("gflops"),
                number("gemm_gflops"),
                number("fraction_of_gemm"));
  }
  std::printf("a token of the longest costs %.2f of one of the shortest, %.4g times as long\n",
              r["cost_growth"].get<double>(),
              r["seq_growth"].get<double>());
}

}  // namespace

int bench_attention(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  const Work work = work_of(args);
  json report = measure_all(work);
  report["heads"] = work.dims[0].H;
  report["kv_heads"] = work.dims[0].K;
  report["head_dim"] = work.dims[0].D;
  report["dtype"] = args.text("--dtype");
  report["repeats"] = work.repeats;
  report["machine"] = machine_json();
  if (args.flag("--json")) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    print_report(report);
  }
  return 0;
}

}  // namespace strata::launch
