// strata bench hardware: what plans are made from, measured once and kept.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/compress/activation_codec.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/matmul.h"
#include "core/parallel_for.h"
#include "launch/args.h"
#include "launch/bench.h"
#include "launch/kept_profile.h"
#include "launch/update_bench.h"
#include "offload/memory_arenas.h"
#include "offload/profile.h"

namespace strata::launch {
namespace {

namespace fs = std::filesystem;

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench hardware",
              words,
              {},
              {{"--paths", "", "directories for offloaded bytes, DIR[,DIR]"},
               {"--refresh", "", "measure again, whatever is kept", flag},
               {"--json", "", "print one JSON object", flag}});
}

std::vector<std::string> directories(std::string_view text) {
  std::vector<std::string> all;
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    std::error_code ignored;
    if (!fs::is_directory(one, ignored)) {
      throw Error(Errc::config,
                  fmt::format("bench hardware: --paths needs directories, got '{}'", one));
    }
    all.push_back(fs::canonical(one).string());
  }
  return all;
}

/// Products as a step runs them: forward and backward of blocks one after the other, of 512 tokens
/// and a model 2048 wide, each with a matrix that no cache holds any more. Their mean, since a step
/// waits for the slow ones too; the median of three times.
double gemm_rate(DType dtype) {
  constexpr std::int64_t kTokens = 512, kWidth = 2048, kBlocks = 8;
  const RandomMemory x(kTokens * kWidth, dtype), y(kTokens * kWidth, dtype),
      weights(kBlocks * kWidth * kWidth, dtype), gradients(kBlocks * kWidth * kWidth, DType::f32);
  const auto block = [&](const RandomMemory& of, DType each, std::int64_t b) {
    const std::int64_t bytes = kWidth * kWidth * size_bytes(each);
    return Tensor(of.tensor(Shape{1}).bytes() + b * bytes, each, Shape{1, kWidth, kWidth});
  };
  const Tensor rows = x.tensor({1, kTokens, kWidth}), results = y.tensor({1, kTokens, kWidth});
  MatmulShape forward{.m = kTokens, .n = kWidth, .k = kWidth, .in = dtype, .out = dtype};
  MatmulShape input_gradient = forward;
  forward.form = MatmulForm::abt;
  const MatmulShape gradient{
      .m = kWidth, .n = kWidth, .k = kTokens, .form = MatmulForm::atb, .in = dtype};
  std::int64_t bytes = 1;
  for (const MatmulShape& shape : {forward, input_gradient, gradient}) {
    bytes = std::max(bytes, matmul_scratch_bytes(shape));
  }
  const Arena memory({}, bytes, bytes);
  const auto multiply =
      [&](const Tensor& C, const Tensor& A, const Tensor& B, const MatmulShape& shape) {
        matmul(C, A, B, shape, Accumulate::overwrite, memory.range(0, bytes), compute_stream());
      };
  const auto pass = [&] {
    for (std::int64_t b = 0; b < kBlocks; ++b) {
      multiply(results, rows, block(weights, dtype, b), forward);
    }
    for (std::int64_t b = kBlocks - 1; b >= 0; --b) {
      multiply(results, rows, block(weights, dtype, b), input_gradient);
      multiply(block(gradients, DType::f32, b), rows, rows, gradient);
    }
  };
  pass();
  std::array<double, 3> seconds;
  std::ranges::generate(seconds, [&] { return seconds_of(pass); });
  std::ranges::sort(seconds);
  return kBlocks *
         (product_flops(forward) + product_flops(input_gradient) + product_flops(gradient)) /
         seconds[1];
}

/// The rate of products while `other` repeats on a thread of its own, relative to `alone`.
template <class Other>
double gemm_beside(double alone, const Other& other) {
  std::atomic<bool> done = false;
  std::thread beside([&] {
    while (!done) {
      other();
    }
  });
  const double rate = gemm_rate(DType::f32);
  done = true;
  beside.join();
  return std::min(1.0, rate / alone);
}

/// Bytes per second, read plus written, there and back between memory and that of `tier`; 0 where
/// such memory is not to be had.
double copy_rate_of(TierKind kind) {
  const Tier host{TierKind::host, 0}, tier{kind, 0};
  offload::Plan plan;
  offload::Budgets budgets;
  for (const Tier each : {host, tier}) {
    plan.tiers[each].arena_bytes = budgets[each] = Copy::kBytes;
  }
  bool granted = true;
  const auto arenas =
      offload::make_arenas(plan, budgets, {.warn = [&](std::string_view) { granted = false; }});
  if (!granted) {
    return 0;
  }
  const auto here = arenas.at(host).range(0, Copy::kBytes);
  const auto there = arenas.at(tier).range(0, Copy::kBytes);
  std::memset(here.data(), 1, here.size());
  const double seconds = best_seconds(5, [&] {
    stream_copy(there, here);
    stream_copy(here, there);
  });
  return 4.0 * static_cast<double>(Copy::kBytes) / seconds;
}

/// Elements a second that are encoded and decoded, past the caches.
double codec_rate(ActivationCodec codec) {
  constexpr std::int64_t kElements = 16 << 20;
  const RandomMemory values(kElements, DType::f32);
  std::vector<std::byte> codes(static_cast<std::size_t>(coded_bytes(codec, kElements)));
  return static_cast<double>(kElements) / best_seconds(3, [&] {
           encode_activation(codes, values.tensor({kElements}), codec, {}, 0);
           decode_activation(values.tensor({kElements}), codes, codec);
         });
}

double median(std::vector<double> samples) {
  const auto middle = samples.begin() + std::ssize(samples) / 2;
  std::ranges::nth_element(samples, middle);
  return *middle;
}

offload::HardwareProfile measure(const std::vector<std::string>& paths) {
  offload::HardwareProfile p;
  p.machine = this_machine();
  std::vector<double> f32, bf16;  // at several times, since machines have slow seconds
  const auto sample = [&] {
    f32.push_back(gemm_rate(DType::f32));
    bf16.push_back(gemm_rate(DType::bf16));
  };
  sample();
  const Copy copy;
  p.copy = 1e9 * copy.gigabytes() / best_seconds(5, [&] { copy.run(); });
  p.copy_pinned = copy_rate_of(TierKind::pinned);
  p.copy_far = copy_rate_of(TierKind::far);
  constexpr std::int64_t kParams = 16 << 20;
  UpdateBench update("adamw", {}, kParams, DType::f32);
  p.update = static_cast<double>(kParams) / best_seconds(5, [&] { update.update(); });
  p.codecs = {.fp8 = codec_rate(ActivationCodec::fp8),
              .int8 = codec_rate(ActivationCodec::int8),
              .int4 = codec_rate(ActivationCodec::int4)};
  sample();
  for (const std::string& path : paths) {
    p.paths.push_back(offload::measure_path(path));
  }
  sample();
  const RandomMemory from(Copy::kBytes / 4, DType::f32), to(Copy::kBytes / 4, DType::f32);
  p.gemm_beside_copy = gemm_beside(f32.back(), [&] {
    constexpr std::int64_t kPiece = 1 << 20;
    for (std::int64_t at = 0; at + kPiece <= Copy::kBytes; at += kPiece) {
      std::memcpy(to.tensor({Copy::kBytes / 4}).bytes() + at,
                  from.tensor({Copy::kBytes / 4}).bytes() + at,
                  kPiece);
    }
  });
  sample();
  if (!paths.empty()) {
    p.gemm_beside_io = gemm_beside(f32.back(), [&] {
      offload::measure_path(paths[0], {.file_bytes = 64 << 20, .seconds = 0.02});
    });
  }
  sample();
  p.gemm_f32 = median(f32);
  p.gemm_bf16 = median(bf16);
  return p;
}

void print_profile(const offload::HardwareProfile& p) {
  std::printf("%s\n", p.machine.c_str());
  std::printf(
      "products        %8.1f GFLOP/s f32, %.1f bf16\n", 1e-9 * p.gemm_f32, 1e-9 * p.gemm_bf16);
  std::printf("memory copy     %8.1f GB/s read plus written\n", 1e-9 * p.copy);
  const auto other_copy = [](const char* name, double rate, const char* why) {
    rate > 0 ? std::printf("  %-14s%8.1f GB/s\n", name, 1e-9 * rate)
             : std::printf("  %-14s       - %s\n", name, why);
  };
  other_copy("pinned", p.copy_pinned, "not measured: so much may not be locked (ulimit -l)");
  other_copy("far", p.copy_far, "not measured: one node of memory");
  std::printf("AdamW update    %8.1f million parameters a second\n", 1e-6 * p.update);
  std::printf(
      "codecs          %8.2f billion elements a second in and out of fp8, %.2f int8, %.2f int4\n",
      1e-9 * p.codecs.fp8,
      1e-9 * p.codecs.int8,
      1e-9 * p.codecs.int4);
  std::printf("products beside a copy: %.2f of their rate alone\n", p.gemm_beside_copy);
  if (!p.paths.empty()) {
    std::printf("products beside reads and writes: %.2f of it\n", p.gemm_beside_io);
  }
  for (const offload::PathRates& path : p.paths) {
    std::printf("%s  read %.2f, write %.2f, both %.2f GB/s (%lld KiB x %d, %s%s)\n",
                path.directory.c_str(),
                1e-9 * path.read,
                1e-9 * path.write,
                1e-9 * path.mixed,
                static_cast<long long>(path.block_bytes >> 10),
                path.depth,
                path.engine.c_str(),
                path.direct ? "" : ", through the page cache");
  }
}

}  // namespace

int bench_hardware(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  const std::vector<std::string> paths = directories(args.text("--paths"));
  const fs::path file = profile_file();
  std::optional<offload::HardwareProfile> profile;
  if (!args.flag("--refresh")) {
    profile = kept_profile(file, paths);
  }
  const bool measured = !profile;
  if (measured) {
    profile = measure(paths);
    fs::create_directories(file.parent_path());
    io::replace_file(file, offload::to_json(*profile));
  }
  if (args.flag("--json")) {
    std::printf("%s", offload::to_json(*profile).c_str());
  } else {
    print_profile(*profile);
    std::printf("%s %s\n", measured ? "kept in" : "from", file.c_str());
  }
  return 0;
}

}  // namespace strata::launch
