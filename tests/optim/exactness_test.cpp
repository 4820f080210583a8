// Smooth rules run freely beside their float64 twins: from equal starts, errors only grow.
#include <functional>

#include "tests/optim/teacher.h"
#include "tests/support/twins/adam_mini.h"
#include "tests/support/twins/adamw.h"
#include "tests/support/twins/sgd.h"

namespace strata::tests {
namespace {

using twins::Vec;

double relative_error(const Vec& got, const Vec& want) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return size == 0 ? std::sqrt(error) : std::sqrt(error / size);
}

/// State that runs on its own: field names and what they must be.
struct Free {
  Vec weights;
  std::vector<std::pair<std::string, Vec>> state;
};
using FreeStep = std::function<void(Free& now, const Vec& g, double lr, std::int64_t t)>;

/// Steps of kernel and twin; norm-wise errors of weights and state at the end.
void run_freely(
    const TensorCase& what, const Free& begin, const FreeStep& twin, int steps, double limit) {
  const auto numel = static_cast<std::size_t>(what.shape.numel());
  const std::vector<float> start = start_values(numel);
  OneTensor kernel(what, start);
  Free now = begin;
  now.weights.assign(start.begin(), start.end());
  Gradients gradients(numel);
  for (std::int64_t t = 1; t <= steps; ++t) {
    const std::span<const float> g = gradients.next();
    kernel.step(g, rate_of(t), clip_of(t));
    twin(now, clipped(g, t), rate_of(t), t);
  }
  const std::string name = what.method + " " + to_string(what.shape);
  const double weights = relative_error(kernel.weights(), now.weights);
  EXPECT_LE(weights, limit) << name;
  EXPECT_EQ(kernel.layout().size(), now.state.size()) << name;
  double worst = 0;
  for (const auto& [field, want] : now.state) {
    ASSERT_TRUE(kernel.field(field)) << name << " has no " << field;
    const double error = relative_error(kernel.values(field), want);
    EXPECT_LE(error, limit) << name << " " << field;
    worst = std::max(worst, error);
  }
  if (std::getenv("STRATA_TEST_REPORT") != nullptr) {
    std::printf("%-44s weights %.1e state %.1e\n", name.c_str(), weights, worst);
  }
}

void adamw_stays_near(const char* name, twins::Family family, int steps) {
  const twins::AdamWSettings s{
      .family = family, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
  const auto step = [&](Free& now, const Vec& g, double lr, std::int64_t t) {
    twins::AdamState state = twins::adam_start(s, g.size());
    state.m.values = now.state[0].second;
    state.v.values = now.state[1].second;
    const twins::AdamWStep next = twins::adamw(now.weights, state, g, s, lr, t);
    now = {next.weights, {{"m", next.state.m.values}, {"v", next.state.v.values}}};
  };
  for (const Shape& shape : odd_shapes()) {
    const Vec zeros(static_cast<std::size_t>(shape.numel()));
    run_freely({"adamw", {{"family", name}, {"beta2", "0.999"}}, shape},
               {{}, {{"m", zeros}, {"v", zeros}}},
               step,
               steps,
               2e-6);
  }
}

void every_family_stays_near(int steps) {
  adamw_stays_near("pytorch", twins::Family::pytorch, steps);
  adamw_stays_near("bnb", twins::Family::bnb, steps);
  adamw_stays_near("hf", twins::Family::hf, steps);
}
TEST(Exactness, AdamWInEveryFamily) {
  every_family_stays_near(100);
}
TEST(Exactness, SlowAdamWInEveryFamily) {
  every_family_stays_near(1000);
}

struct SgdVariant {
  const char *momentum, *dampening, *nesterov, *decoupled;
};

void sgd_stays_near(const SgdVariant& v, int steps) {
  const bool decoupled = std::string(v.decoupled) == "true";
  const bool nesterov = std::string(v.nesterov) == "true";
  const twins::SgdSettings s{
      .momentum = std::stod(v.momentum),
      .dampening = std::stod(v.dampening),
      .weight_decay = 0.1,
      .decay = decoupled ? twins::Decay::decoupled : twins::Decay::coupled,
      .lookahead = nesterov ? twins::Lookahead::nesterov : twins::Lookahead::plain};
  const auto step = [&](Free& now, const Vec& g, double lr, std::int64_t t) {
    twins::Moment b = twins::zero_moment(twins::Codec::f32, twins::Sign::both, g.size());
    if (!now.state.empty()) {
      b.values = now.state[0].second;
    }
    const twins::SgdStep next = twins::sgd(now.weights, b, g, s, lr, t);
    now.weights = next.weights;
    if (!now.state.empty()) {
      now.state[0].second = next.b.values;
    }
  };
  for (const Shape& shape : odd_shapes()) {
    Free begin;
    if (s.momentum != 0) {
      begin.state = {{"b", Vec(static_cast<std::size_t>(shape.numel()))}};
    }
    run_freely({"sgd",
                {{"momentum", v.momentum},
                 {"dampening", v.dampening},
                 {"nesterov", v.nesterov},
                 {"decoupled", v.decoupled},
                 {"weight_decay", "0.1"}},
                shape},
               begin,
               step,
               steps,
               5e-6);
  }
}

void every_sgd_stays_near(int steps) {
  sgd_stays_near({"0", "0", "false", "false"}, steps);
  sgd_stays_near({"0", "0", "false", "true"}, steps);
  sgd_stays_near({"0.9", "0.1", "false", "false"}, steps);
  sgd_stays_near({"0.9", "0", "true", "false"}, steps);
  sgd_stays_near({"0.95", "0", "true", "true"}, steps);
}
TEST(Exactness, SgdInEveryVariant) {
  every_sgd_stays_near(100);
}
TEST(Exactness, SlowSgdInEveryVariant) {
  every_sgd_stays_near(1000);
}

/// Groups by output rows, by output columns, or every element its own (vectors).
std::vector<std::size_t> groups_of(const TensorCase& what) {
  const auto numel = static_cast<std::size_t>(what.shape.numel());
  const auto columns = static_cast<std::size_t>(what.shape.back());
  std::vector<std::size_t> groups = twins::groups_of_rows(numel / columns, columns);
  for (std::size_t i = 0; i < numel; ++i) {
    if (what.role == Role::vector) {
      groups[i] = i;
    } else if (what.output_axis == 1) {
      groups[i] = i % columns;
    }
  }
  return groups;
}

void adam_mini_stays_near(TensorCase what, int steps) {
  what.method = "adam_mini";
  what.settings = {{"beta2", "0.999"}, {"decay", "all"}};
  const twins::AdamMiniSettings s{.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
  const std::vector<std::size_t> groups = groups_of(what);
  const auto step = [&](Free& now, const Vec& g, double lr, std::int64_t t) {
    const twins::AdamMiniStep next = twins::adam_mini(
        now.weights, now.state[0].second, now.state[1].second, g, groups, s, lr, t);
    now = {next.weights, {{"m", next.m}, {"v", next.v}}};
  };
  run_freely(
      what, {{}, {{"m", Vec(groups.size())}, {"v", Vec(groups.back() + 1)}}}, step, steps, 5e-6);
}

void every_adam_mini_stays_near(int steps) {
  for (const Shape& shape : odd_shapes()) {
    adam_mini_stays_near({.method = "", .shape = shape}, steps);
  }
  adam_mini_stays_near({.method = "", .shape = {37, 61}, .output_axis = 1}, steps);
  adam_mini_stays_near({.method = "", .shape = {64, 150}, .output_axis = 1}, steps);
  adam_mini_stays_near({.method = "", .shape = {64, 48}, .role = Role::embed}, steps);
  adam_mini_stays_near({.method = "", .shape = {333}, .role = Role::vector}, steps);
}
TEST(Exactness, AdamMiniByRowsColumnsAndElements) {
  every_adam_mini_stays_near(100);
}
TEST(Exactness, SlowAdamMiniByRowsColumnsAndElements) {
  every_adam_mini_stays_near(1000);
}

}  // namespace
}  // namespace strata::tests
