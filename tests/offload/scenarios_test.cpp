// Machines and models that no test can have, with what formulas say about them. Device compute is
// 8 operations per parameter and token (everything is recomputed), weights and gradients are 2
// bytes a parameter, state 12.
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/schedule.h"
#include "offload/closed_forms.h"
#include "offload/nvme_layout.h"
#include "offload/placement_search.h"

namespace strata::offload {
namespace {

using nlohmann::json;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};
constexpr double kTolerance = 0.03;

json golden(const std::string& name) {
  std::ifstream file(STRATA_SOURCE_DIR "/tests/offload/golden/" + name + ".json");
  EXPECT_TRUE(file) << name;
  return json::parse(file);
}

struct Scenario {
  Program program;
  PackSizes sizes;
  Timing timing;
  Budgets budgets;
  TiersByBlock placing;
};

UpdateMode mode_of(const std::string& name) {
  const std::map<std::string, UpdateMode> modes{{"after_norm", UpdateMode::after_norm},
                                                {"immediate", UpdateMode::immediate},
                                                {"speculative", UpdateMode::speculative},
                                                {"lazy_forward", UpdateMode::lazy_forward},
                                                {"hybrid", UpdateMode::hybrid}};
  return modes.at(name);
}

PackSizes sizes_of(const json& model, int micro_batches, double state_bytes) {
  const int blocks = model["blocks"];
  const double params = model["params"].get<double>() / blocks;
  const auto bytes = [&](double of_a_param) {
    return static_cast<std::int64_t>(of_a_param * params);
  };
  const auto boundary = static_cast<std::int64_t>(model["tokens"].get<double>() *
                                                  model["boundary_bytes_per_token"].get<double>());
  PackSizes s;
  s[{PackClass::workspace}] = s[{PackClass::workspace, blocks - 1}] = 1 << 20;
  for (int b = 0; b < blocks; ++b) {
    s[{PackClass::weights, b}] = s[{PackClass::weights_next, b}] = s[{PackClass::grads, b}] =
        bytes(2);
    s[{PackClass::state, b}] = s[{PackClass::state_next, b}] = bytes(state_bytes);
    for (int mb = 0; mb < micro_batches; ++mb) {
      s[{PackClass::saved, b, mb}] = 0;
      s[{PackClass::boundary, b, mb}] = s[{PackClass::boundary_grad, b, mb}] = boundary;
    }
  }
  return s;
}

Timing timing_of(const json& model, const json& machine) {
  const int blocks = model["blocks"];
  const double params = model["params"].get<double>() / blocks;
  const double product = params * model["tokens"].get<double>() / machine["flops"].get<double>();
  const double on_host = params / machine["host_updates"].get<double>(),
               on_device = params / machine["device_updates"].get<double>();
  Timing t;
  t.compute_seconds = [=](const Instruction& i) {
    switch (i.op) {
      case Op::forward:
        return i.block == blocks - 1 ? 8 * product : 2 * product;  // the last runs back as well
      case Op::recompute:
        return 2 * product;
      case Op::backward:
        return 4 * product;
      case Op::update:
        return i.tier == kDevice ? on_device : on_host;
      default:
        return 0.0;
    }
  };
  t.host_cores = HostCores::beside_device;
  const auto rate = [&](const char* name) { return machine[name].get<double>(); };
  t.bytes_per_second = {{{kHost, kDevice}, rate("link")}, {{kDevice, kHost}, rate("link")}};
  if (machine.contains("read")) {
    SharedLinks drives{{}, rate("mixed")};
    for (const Tier memory : {kDevice, kHost}) {
      t.bytes_per_second[{kNvme, memory}] = rate("read");
      t.bytes_per_second[{memory, kNvme}] = rate("write");
      drives.links.push_back({kNvme, memory});
      drives.links.push_back({memory, kNvme});
    }
    t.shared.push_back(drives);
  }
  return t;
}

Scenario scenario_of(const json& all, const json& run) {
  const json& model = all.at("model");
  const int blocks = model["blocks"], micro_batches = run.value("micro_batches", 1);
  StepShape shape{.blocks = blocks, .micro_batches = micro_batches};
  for (int b = 0; b < blocks - 1; ++b) {
    shape.recomputed.push_back(b);
  }
  const UpdateMode mode = mode_of(run["update"]);
  shape = with_updates(shape, mode, run.value("speculated", 0));
  Scenario s;
  s.program = make_step(shape, Order::layer_major, mode);
  s.sizes = sizes_of(model, micro_batches, run.value("state_bytes", 12.0));
  s.timing = timing_of(model, all["machine"]);
  const json budgets = run.value("budgets", all["budgets"]);
  for (const Tier tier : {kDevice, kHost, kNvme}) {
    if (budgets.contains(to_string(tier))) {
      s.budgets[tier] = static_cast<std::int64_t>(budgets[to_string(tier)].get<double>());
    }
  }
  s.placing.assign(static_cast<std::size_t>(blocks),
                   *tiers_from(all["placing"].get<std::string>()));
  // The blocks whose gradients come first have their state in files.
  for (int k = 0; k < run.value("state_in_files", 0); ++k) {
    s.placing[static_cast<std::size_t>(blocks - 1 - k)].state = kNvme;
  }
  const int on_device = run.value("device_updates", 0);
  for (int k = 0; k < on_device; ++k) {
    s.placing[static_cast<std::size_t>(k * blocks / on_device)].update = kDevice;
  }
  return s;
}

std::map<std::string, double> figures_of(const Simulation& s) {
  std::map<std::string, double> figures{
      {"seconds", s.seconds},
      {"device", s.compute_seconds - s.host_seconds},
      {"host", s.host_seconds},
      {"exposed", s.seconds - (s.compute_seconds - s.host_seconds)},
      {"shared", s.shared_seconds}};
  for (const auto& [link, seconds] : s.busy) {
    figures[to_string(link)] = seconds;
  }
  return figures;
}

void expect_figures(const json& run, const Simulation& s) {
  const auto figures = figures_of(s);
  const json expected = run.value("expected", json::object());
  const json at_most = run.value("at_most", json::object());
  for (const auto& [name, value] : expected.items()) {
    EXPECT_NEAR(figures.at(name), value.get<double>(), kTolerance * value.get<double>()) << name;
  }
  for (const auto& [name, value] : at_most.items()) {
    EXPECT_LE(figures.at(name), value.get<double>() * (1 + kTolerance)) << name;
  }
  if (run.contains("bound_by")) {
    EXPECT_DOUBLE_EQ(figures.at(run["bound_by"]), s.bound_seconds());
  }
}

Program placed(const Scenario& s) {
  return with_transfers(s.program, placement_of(s.placing, s.sizes), s.sizes, s.timing, s.budgets);
}

/// What does not fit below ends in the device, which says what it lacks.
void expect_refusal(const Scenario& s) {
  try {
    search_placement({{&s.program}, s.sizes, s.timing, s.budgets}, {.instructions = 10'000});
    FAIL() << "it fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::infeasible);
    for (const char* const part : {"tier device needs", "are missing", "of host"}) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

/// The placing that the formulas are of comes to what they say.
void check_figures(const std::string& name) {
  const json all = golden(name);
  for (const json& run : all["runs"]) {
    SCOPED_TRACE(name + ": " + run["what"].get<std::string>());
    const Scenario s = scenario_of(all, run);
    if (run.contains("refused")) {
      expect_refusal(s);
    } else {
      const Simulation as_said = simulate(placed(s), s.sizes, s.timing);
      expect_figures(run, as_said);
      testing::Test::RecordProperty(name + ", " + run["what"].get<std::string>(),
                                    std::to_string(as_said.seconds));  // for offload/README.md
      EXPECT_GE(as_said.seconds, as_said.bound_seconds());
    }
  }
}

/// The search finds nothing slower than that placing.
void check_search(const std::string& name) {
  const json all = golden(name);
  for (const json& run : all["runs"]) {
    if (!run.contains("refused")) {
      SCOPED_TRACE(name + ": " + run["what"].get<std::string>());
      const Scenario s = scenario_of(all, run);
      const FoundPlacement found = search_placement({{&s.program}, s.sizes, s.timing, s.budgets});
      const double as_said = simulate(placed(s), s.sizes, s.timing).seconds;
      testing::Test::RecordProperty(name + " found, " + run["what"].get<std::string>(),
                                    std::to_string(found.seconds));
      EXPECT_LE(found.seconds, run.value("found_at_most", as_said) * (1 + kTolerance));
    }
  }
}

/// Memory that holds 32 GB registered for copies and 128 GB beside it is one budget here, and
/// gradients are of four bytes: a third of the blocks speculate in 184 GB.
TEST(Scenarios, S1StateInHostMemory) {
  check_figures("S1");
}

/// The state in files is read and written 10.6 s. In forward there is room in memory for that of
/// four blocks, so that files rest for a while of its 1.6 s.
TEST(Scenarios, S2StateInFiles) {
  check_figures("S2");
}

/// With two micro-batches the inputs of 80 blocks alone are 86 GB: that run has a larger device.
TEST(Scenarios, S3SomeUpdatesOnTheDevice) {
  check_figures("S3");
  const json all = golden("S3");
  const json &model = all["model"], &machine = all["machine"], &share = all["device_share"];
  const auto number = [](const json& of, const char* name) { return of[name].get<double>(); };
  const UpdateWindow window{.params = number(model, "params"),
                            .state_bytes = 12,
                            .host_updates = number(machine, "host_updates"),
                            .device_updates = number(machine, "device_updates"),
                            .rates = {number(machine, "link"), number(machine, "link")},
                            .up_seconds = number(share, "up_seconds"),
                            .down_seconds = number(share, "down_seconds"),
                            .device_seconds = number(share, "window_flops") *
                                              number(model, "params") * number(model, "tokens") /
                                              number(machine, "flops")};
  const DeviceShare best = best_device_share(window);
  EXPECT_GE(best.fraction, number(share, "least"));
  EXPECT_LE(best.fraction, number(share, "most"));
  EXPECT_NEAR(best.seconds, window.device_seconds, kTolerance * window.device_seconds);
  UpdateWindow link = window;  // the way up alone
  link.host_updates = link.device_updates = 1e15;
  link.device_seconds = 0;
  EXPECT_NEAR(window_seconds(link, 0.26), number(share, "link_seconds"), 0.3);
}

TEST(Scenarios, SearchesFindNothingSlowerSlow) {
  for (const char* const name : {"S1", "S2", "S3"}) {
    check_search(name);
  }
}

/// By formulas alone: a program's recompute is of whole blocks, not of rows of tokens.
TEST(Scenarios, S4LongContext) {
  const json all = golden("S4");
  const auto of = [&](const char* part, const char* name) { return all[part][name].get<double>(); };
  const double h = of("shape", "hidden"), f = of("shape", "forward"), kd = of("shape", "keys");
  const double tokens = all["tokens"].get<double>(), mine = tokens / all["ranks"].get<double>();
  const double products = 2 * (h * (2 * h + 2 * kd) + 3 * h * f);
  const double forward = mine * (products + 2 * tokens * h) / of("machine", "flops");
  const LongContextBlock block{
      .input_bytes = 2 * h * mine,
      .attention_bytes = 2 * h * mine,
      .rest_bytes = (8 * h + 4 * kd + 6 * f + 4 * of("shape", "heads") + 8) * mine,
      .forward_seconds = forward,
      .backward_seconds = 2 * forward};
  const CopyRates rates{of("machine", "link"), of("machine", "link")};
  const int blocks = all["shape"]["blocks"];
  const double fraction = swapped_fraction(
      block, rates, static_cast<std::int64_t>(of("machine", "host_bytes")), blocks);
  EXPECT_EQ(swapped_fraction(block, rates, 1ll << 62, blocks), of("expected", "by_time"));
  EXPECT_NEAR(fraction, of("expected", "fraction"), kTolerance * of("expected", "fraction"));
}

/// By formulas alone: shards of unequal ranks are dealt out before a rank's program is planned, and
/// the time of a step of several unequal ranks is not simulated.
TEST(Scenarios, S5MixedDevices) {
  const json all = golden("S5");
  const double least = all["expected"]["least_ratio"], most = all["expected"]["most_ratio"];
  for (const double activations : all["activations"].get<std::vector<double>>()) {
    std::vector<double> left;
    for (const double memory : all["memory"].get<std::vector<double>>()) {
      left.push_back(memory - activations);
    }
    const auto shares = largest_remainder(all["units"], left);
    const double ratio = static_cast<double>(shares[1]) / static_cast<double>(shares[0]);
    EXPECT_NEAR(ratio, left[1] / left[0], 0.01);
    EXPECT_GE(ratio, least - 0.01);
    EXPECT_LE(ratio, most + 0.01);
  }
}

}  // namespace
}  // namespace strata::offload
