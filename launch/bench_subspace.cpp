// strata bench subspace: the leading singular directions of a matrix by a randomised range finder,
// against all of them: time, and how much of the matrix each basis holds.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/compress/low_rank.h"
#include "core/error.h"
#include "core/normal.h"
#include "launch/args.h"
#include "launch/bench.h"

namespace strata::launch {
namespace {

using nlohmann::json;

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench subspace",
              words,
              {},
              {{"--rows", "2048", "of the matrix", integer},
               {"--columns", "2048", "of the matrix", integer},
               {"--rank", "128", "directions that are looked for", integer},
               {"--repeats", "3", "times that each way is timed", integer},
               {"--spectrum", "white", "singular values: white noise, or decay: as 1 / i"},
               {"--json", "", "print one JSON object", flag}});
}

double energy(const Tensor& x) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double value = x.data<float>()[i];
    sum += value * value;
  }
  return sum;
}

/// White noise, or noise whose rows are scaled down by their number: nearly as many directions, the
/// i-th as strong as 1 / i.
void fill_matrix(const Tensor& G, bool decay) {
  fill_normal(std::span(G.data<float>(), static_cast<std::size_t>(G.numel())),
              {1, RandomUse::init, 0, 0},
              0,
              0.0,
              1.0);
  const std::int64_t rows = G.shape()[0], columns = G.shape()[1];
  for (std::int64_t i = 0; decay && i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      G.data<float>()[i * columns + j] /= static_cast<float>(i + 1);
    }
  }
}

}  // namespace

int bench_subspace(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  const LowRankShape shape{
      args.integer("--rows"), args.integer("--columns"), args.integer("--rank")};
  const std::string spectrum = args.text("--spectrum");
  if (shape.a < 1 || shape.b < 1 || (spectrum != "white" && spectrum != "decay")) {
    throw Error(Errc::config,
                "bench subspace: --rows and --columns need at least 1, --spectrum white or decay");
  }
  shape.validate();
  const int repeats = static_cast<int>(args.integer("--repeats"));
  const Tensor G = Tensor::zeros(DType::f32, {shape.a, shape.b});
  fill_matrix(G, spectrum == "decay");
  const Tensor basis = Tensor::zeros(DType::f32, shape.basis());
  const Tensor R = Tensor::zeros(DType::f32, shape.projected());
  std::vector<std::byte> workspace(
      static_cast<std::size_t>(std::max({top_subspace_workspace_bytes(shape),
                                         exact_subspace_workspace_bytes(shape),
                                         project_workspace_bytes(shape)})));
  Stream& stream = compute_stream();
  const auto held = [&] {
    project(R, G, basis, shape, workspace, stream);
    return energy(R) / energy(G);
  };
  const double randomised = best_seconds(repeats, [&] {
    top_subspace(basis, G, shape, {}, {1, RandomUse::subspace, 0, 0}, workspace, stream);
  });
  const double randomised_energy = held();
  const double exact = best_seconds(1, [&] { exact_subspace(basis, G, shape, workspace, stream); });
  const double exact_energy = held();
  const json report{{"rows", shape.a},
                    {"columns", shape.b},
                    {"rank", shape.rank},
                    {"spectrum", spectrum},
                    {"randomised_seconds", randomised},
                    {"exact_seconds", exact},
                    {"time_ratio", randomised / exact},
                    {"randomised_energy", randomised_energy},
                    {"exact_energy", exact_energy},
                    {"energy_ratio", randomised_energy / exact_energy},
                    {"machine", machine_json()}};
  if (args.flag("--json")) {
    std::printf("%s\n", report.dump().c_str());
    return 0;
  }
  std::printf(
      "rank %lld of (%lld, %lld), %s: randomised %.3f s, exact %.3f s: %.3f of its time\n"
      "energy held: %.4f and %.4f: %.4f of the exact basis's\n",
      static_cast<long long>(shape.rank),
      static_cast<long long>(shape.a),
      static_cast<long long>(shape.b),
      spectrum.c_str(),
      randomised,
      exact,
      randomised / exact,
      randomised_energy,
      exact_energy,
      randomised_energy / exact_energy);
  return 0;
}

}  // namespace strata::launch
