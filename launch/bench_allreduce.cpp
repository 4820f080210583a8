// strata bench allreduce: sums over the ranks of a launcher, in rank order, beside the library's
// own sum, which keeps no order.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/memory.h"
#include "core/parallel_for.h"
#include "core/tensor.h"
#include "launch/args.h"
#include "launch/bench.h"
#include "parallel/mpi_communicator.h"

namespace strata::launch {
namespace {

using nlohmann::json;

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::int64_t kMiB = std::int64_t{1} << 20;

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench allreduce",
              words,
              {},
              {{"--size", "64MiB", "bytes of f32 values that every rank brings: KiB, MiB, GiB"},
               {"--repeats", "9", "sums timed of each kind, after two that are not", integer},
               {"--json", "", "print one JSON object", flag}});
}

std::int64_t bytes_of_word(const std::string& word) {
  char* end = nullptr;
  const long long count = std::strtoll(word.c_str(), &end, 10);
  const std::string unit = end;
  const int shift = unit == "KiB" ? 10 : unit == "MiB" ? 20 : unit == "GiB" ? 30 : 0;
  if (end == word.c_str() || count < 1 || count > (std::int64_t{1} << 40 >> shift) ||
      (shift == 0 && !unit.empty() && unit != "B")) {
    throw Error(Errc::config,
                fmt::format("bench allreduce: --size needs a size such as 64MiB, got '{}'", word));
  }
  const std::int64_t bytes = static_cast<std::int64_t>(count) << shift;
  // The library counts values in an int.
  if (bytes % 4 != 0 || bytes / 4 > std::int64_t{0x7fffffff}) {
    throw Error(
        Errc::config,
        fmt::format("bench allreduce: --size needs a multiple of 4 bytes below 8GiB, got '{}'",
                    word));
  }
  return bytes;
}

/// What rank r brings: values whose sum depends on the order.
float value_of(int rank, std::int64_t i) {
  const auto bits = static_cast<std::uint32_t>(i * 1664525 + rank * 1013904223 + 12345);
  const float scale = (bits & 0x80u) != 0 ? 1.f : 0x1p-12f;
  return (static_cast<float>(bits >> 8) * 0x1p-24f - 0.5f) * scale;
}

class AllReduceBench {
 public:
  AllReduceBench(Communicator& ranks, std::int64_t bytes)
      : ranks_(ranks), arena_(kDevice, bytes, bytes), numel_(bytes / 4) {}
  /// Seconds of the slowest rank.
  template <class Sum>
  double time(const Sum& sum) {
    fill();
    ranks_.barrier();
    const double mine = seconds_of(sum);
    std::vector<double> all(static_cast<std::size_t>(ranks_.size()));
    ranks_.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
    return *std::ranges::max_element(all);
  }
  double time_ours() {
    return time([&] { ranks_.all_reduce(tensor()); });
  }
  double time_library() {
    return time([&] {
      parallel::library_all_reduce({tensor().data<float>(), static_cast<std::size_t>(numel_)});
    });
  }
  /// Values, on all ranks, that are not the fold in rank order.
  std::int64_t wrong() {
    fill();
    ranks_.all_reduce(tensor());
    const float* const sums = tensor().data<float>();
    std::int64_t mine = 0;
    for (std::int64_t i = 0; i < numel_; ++i) {
      float sum = value_of(0, i);
      for (int rank = 1; rank < ranks_.size(); ++rank) {
        sum += value_of(rank, i);
      }
      mine += sums[i] == sum ? 0 : 1;
    }
    std::vector<std::int64_t> all(static_cast<std::size_t>(ranks_.size()));
    ranks_.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
    std::int64_t count = 0;
    for (const std::int64_t n : all) {
      count += n;
    }
    return count;
  }

 private:
  Tensor tensor() const { return {arena_.range(0, numel_ * 4).data(), DType::f32, {numel_}}; }
  void fill() const {
    float* const to = tensor().data<float>();
    parallel_for(numel_, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        to[i] = value_of(ranks_.rank(), i);
      }
    });
  }
  Communicator& ranks_;
  Arena arena_;
  std::int64_t numel_;
};

json spread(const std::vector<double>& seconds) {
  const auto [least, most] = std::ranges::minmax_element(seconds);
  return {{"median", median(seconds)}, {"min", *least}, {"max", *most}};
}

json measure(Communicator& ranks, std::int64_t bytes, std::int64_t repeats) {
  AllReduceBench bench(ranks, bytes);
  const std::int64_t wrong = bench.wrong();
  if (wrong != 0) {
    throw Error(Errc::internal,
                fmt::format("bench allreduce: {} sums are not the fold in rank order", wrong));
  }
  bench.time_library();
  std::vector<double> ours, library, ratios;
  for (std::int64_t i = 0; i < repeats; ++i) {  // alternating: what else runs here slows both
    ours.push_back(bench.time_ours());
    library.push_back(bench.time_library());
    ratios.push_back(library.back() / ours.back());
  }
  return {{"seconds", spread(ours)},
          {"library_seconds", spread(library)},
          {"library_over_ours", spread(ratios)},
          // Every rank reads and writes its values at least once.
          {"gigabytes_per_second_per_rank", 2e-9 * static_cast<double>(bytes) / median(ours)}};
}

void print_report(const json& r) {
  const auto row = [&](const char* name, const json& seconds) {
    std::printf("%-14s %8.2f ms (%.2f to %.2f)\n",
                name,
                1e3 * seconds["median"].get<double>(),
                1e3 * seconds["min"].get<double>(),
                1e3 * seconds["max"].get<double>());
  };
  std::printf("sum of %.1f MiB f32 over %d ranks, %s, bits as folded in rank order\n",
              static_cast<double>(r["bytes"].get<std::int64_t>()) / static_cast<double>(kMiB),
              r["ranks"].get<int>(),
              r["machine"]["processor"].get<std::string>().c_str());
  row("strata", r["seconds"]);
  row("MPI_Allreduce", r["library_seconds"]);
  std::printf("MPI_Allreduce takes %.2f times as long (%.2f to %.2f); a rank moves %.1f GB/s\n",
              r["library_over_ours"]["median"].get<double>(),
              r["library_over_ours"]["min"].get<double>(),
              r["library_over_ours"]["max"].get<double>(),
              r["gigabytes_per_second_per_rank"].get<double>());
}

}  // namespace

int bench_allreduce(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  const std::int64_t bytes = bytes_of_word(args.text("--size"));
  const std::int64_t repeats = args.integer("--repeats");
  if (repeats < 1) {
    throw Error(Errc::config,
                fmt::format("bench allreduce: --repeats needs 1 or more, got {}", repeats));
  }
  if (!parallel::under_mpi_launcher()) {
    throw Error(Errc::config,
                "bench allreduce: needs ranks to sum over; start it as mpirun -np 2 strata bench "
                "allreduce");
  }
  const auto ranks = parallel::make_mpi_communicator();
  json report = measure(*ranks, bytes, repeats);
  report["bytes"] = bytes;
  report["ranks"] = ranks->size();
  report["repeats"] = repeats;
  report["machine"] = machine_json();
  if (ranks->rank() != 0) {
    return 0;
  }
  if (args.flag("--json")) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    print_report(report);
  }
  return 0;
}

}  // namespace strata::launch
