// strata bench: what this machine gives, in numbers that can be compared.
#include "launch/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/bf16.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/nearest.h"
#include "core/parallel_for.h"
#include "launch/machine.h"
#include "launch/ranks.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

struct Subject {
  std::string name;
  std::string help;
  int (*run)(Words);
  bool takes_ranks = false;
};

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all{
      {"step", "training steps of a preset on random tokens", bench_step, true},
      {"optim", "an optimizer's update against the copy bandwidth of memory", bench_optim},
      {"subspace", "leading singular directions, randomised against exact", bench_subspace},
      {"attention", "attention by length of sequence, against matrix products", bench_attention},
      {"hardware", "what plans are made from: products, memory, updates, disks", bench_hardware},
      {"allreduce", "sums over the ranks of mpirun, against the library's", bench_allreduce, true},
  };
  return all;
}

}  // namespace

nlohmann::json machine_json() {
  return {{"processor", processor_name()},
          {"threads", thread_count()},
          {"isa", cpu::to_string(cpu::isa_level())},
          {"matmul", matmul_library()}};
}

std::vector<optim::Setting> settings_of(std::string_view text) {
  std::vector<optim::Setting> settings;
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    const std::size_t equals = one.find('=');
    if (equals == std::string_view::npos) {
      throw Error(
          Errc::config,
          fmt::format("bench optim: --settings needs NAME=VALUE,NAME=VALUE, got '{}'", one));
    }
    settings.push_back({std::string(one.substr(0, equals)), std::string(one.substr(equals + 1))});
  }
  return settings;
}

DType dtype_of_word(const std::string& command, const std::string& word) {
  if (word == "f32" || word == "bf16") {
    return word == "f32" ? DType::f32 : DType::bf16;
  }
  throw Error(Errc::config, fmt::format("{}: --dtype needs f32 or bf16, got '{}'", command, word));
}

double median(std::vector<double> values) {
  STRATA_ASSERT(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double best_seconds(int repeats, const std::function<void()>& work) {
  work();
  double best = seconds_of(work);
  for (int i = 1; i < repeats; ++i) {
    best = std::min(best, seconds_of(work));
  }
  return best;
}

void fill_random(const Tensor& to) {
  constexpr std::int64_t kGrain = 1 << 16;
  parallel_for((to.numel() + kGrain - 1) / kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t grain = begin; grain < end; ++grain) {
      auto state = static_cast<std::uint32_t>(grain * kGrain) * 2654435761u + 1;
      for (std::int64_t i = grain * kGrain; i < std::min(to.numel(), (grain + 1) * kGrain); ++i) {
        state = state * 1664525u + 1013904223u;
        const float value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
        if (to.dtype() == DType::bf16) {
          store(to.data<bf16>()[i], value);
        } else {
          to.data<float>()[i] = value;
        }
      }
    }
  });
}

RandomMemory::RandomMemory(std::int64_t numel, DType dtype) : dtype_(dtype) {
  const std::int64_t bytes = numel * size_bytes(dtype);
  arena_ = Arena(kDevice, bytes, bytes);
  fill_random(tensor({numel}));
}

Tensor RandomMemory::tensor(const Shape& shape) const {
  return {arena_.range(0, shape.numel() * size_bytes(dtype_)).data(), dtype_, shape};
}

double product_flops(const MatmulShape& s) {
  return 2.0 * static_cast<double>(s.batch * s.m) * static_cast<double>(s.n * s.k);
}

ProductRate product_rate(std::span<const ProductUse> uses) {
  constexpr int kRepeats = 5;
  ProductRate rate;
  for (const ProductUse& use : uses) {
    const MatmulShape& s = use.shape;
    const RandomMemory A(s.batch * s.m * s.k, s.in), B(s.batch * s.k * s.n, s.in),
        C(s.batch * s.m * s.n, s.out), bias(s.n, s.in);
    const std::int64_t scratch_bytes = std::max<std::int64_t>(1, matmul_scratch_bytes(s));
    const Arena scratch(kDevice, scratch_bytes, scratch_bytes);
    const double best = best_seconds(kRepeats, [&] {
      matmul(C.tensor({s.batch, s.m, s.n}),
             A.tensor({s.batch, s.m, s.k}),
             B.tensor({s.batch, s.k, s.n}),
             s,
             use.mode,
             scratch.range(0, scratch_bytes),
             compute_stream(),
             s.bias ? bias.tensor({s.n}) : Tensor());
    });
    const auto runs = static_cast<double>(use.runs);
    rate.best.push_back(best);
    rate.seconds += runs * best;
    rate.flops += runs * product_flops(s);
  }
  return rate;
}

int bench(Words words) {
  std::string help = "usage: strata bench SUBJECT [OPTIONS]\n\n";
  std::vector<std::string> names;
  for (const Subject& s : subjects()) {
    if (!words.empty() && words[0] == s.name) {
      if (!s.takes_ranks) {
        require_one_rank("bench " + s.name);
      }
      return s.run(words.subspan(1));
    }
    help += fmt::format("  {:<10} {}\n", s.name, s.help);
    names.push_back(s.name);
  }
  if (!words.empty() && (words[0] == "--help" || words[0] == "-h")) {
    std::printf("%s", help.c_str());
    return 0;
  }
  if (words.empty()) {
    throw Error(Errc::config, "bench: needs a subject; see strata bench --help");
  }
  const std::string near = nearest(words[0], names);
  throw Error(Errc::config,
              fmt::format("bench: unknown subject '{}'{}; see strata bench --help",
                          words[0],
                          near.empty() ? "" : ", did you mean '" + near + "'?"));
}

}  // namespace strata::launch
