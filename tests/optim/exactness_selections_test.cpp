// Splitting by columns, rows and elements (FRUGAL), teacher-forced: the twin draws the same choice.
#include "tests/optim/teacher.h"
#include "tests/support/twins/frugal.h"

namespace strata::tests {
namespace {

using twins::Vec;

constexpr std::int64_t kPeriod = 7;  // steps between choices

/// The `count` places of [first, first + from) with the smallest random words.
std::vector<std::size_t> chosen_of(const RandomKey& key,
                                   std::size_t first,
                                   std::size_t from,
                                   std::size_t count) {
  std::vector<std::pair<std::uint32_t, std::size_t>> words;
  for (std::size_t i = 0; i < from; ++i) {
    words.emplace_back(key.words((first + i) / 4)[(first + i) % 4], i);
  }
  std::sort(words.begin(), words.end());
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back(words[i].second);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::size_t> active_of(const std::string& subspace,
                                   const Shape& shape,
                                   const RandomKey& key) {
  const auto rows = static_cast<std::size_t>(shape[0]),
             columns = static_cast<std::size_t>(shape[1]);
  if (subspace == "columns") {
    return twins::elements_of_columns(rows, columns, chosen_of(key, 0, columns, columns / 4));
  }
  if (subspace == "rows") {
    return twins::elements_of_rows(columns, chosen_of(key, 0, rows, rows / 4));
  }
  std::vector<std::size_t> out;
  for (std::size_t first = 0; first < rows * columns; first += 4096) {
    const std::size_t size = std::min<std::size_t>(4096, rows * columns - first);
    for (const std::size_t i : chosen_of(key, first, size, size / 4)) {
      out.push_back(first + i);
    }
  }
  return out;
}

twins::AdamState take(const OneTensor& kernel) {
  return {moment_of(kernel, "m", twins::Codec::f32, twins::Sign::both),
          moment_of(kernel, "v", twins::Codec::f32, twins::Sign::positive)};
}

void frugal(const std::string& subspace, const std::string& rest, int steps) {
  twins::FrugalSettings s;
  s.weight_decay = 0.1;
  s.rest_scale = 0.5;
  s.rest = rest == "sign" ? twins::FrugalSettings::Rest::sign : twins::FrugalSettings::Rest::sgd;
  Judge judge;
  for (const Shape& shape : {Shape{37, 61}, {64, 48}, {150, 60}}) {
    const TensorCase what{.method = "frugal",
                          .settings = {{"subspace", subspace},
                                       {"remainder", rest},
                                       {"rest_lr", "0.5"},
                                       {"weight_decay", "0.1"},
                                       {"refresh_every", std::to_string(kPeriod)}},
                          .shape = shape};
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel(what, start_values(numel));
    Gradients gradients(numel);
    std::vector<std::size_t> active;
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      const twins::AdamState old = take(kernel);
      const Vec before = kernel.weights();
      kernel.step(g, rate_of(t), clip_of(t));
      if ((t - 1) % kPeriod == 0) {
        const RandomKey key{what.seed,
                            RandomUse::subspace,
                            static_cast<std::uint64_t>((t - 1) / kPeriod),
                            static_cast<std::uint64_t>(OneTensor::kId)};
        active = active_of(subspace, shape, key);
      }
      const Vec gradient = clipped(g, t);
      twins::FrugalState state{old, (t - 1) % kPeriod};
      if (state.t == 0) {
        state = twins::frugal_start(s, active.size());
      }
      const twins::FrugalStep twin = twins::frugal(before, state, gradient, active, s, rate_of(t));
      judge.compare_weights(kernel.weights(), twin.weights, before, rate_of(t));
      Vec chosen;
      for (const std::size_t i : active) {
        chosen.push_back(gradient[i]);
      }
      const twins::AdamState now = take(kernel);
      judge.compare_moment(now.m, twin.adam.m_stored, terms_of(decode(state.adam.m), chosen, 0.1));
      judge.compare_moment(now.v, twin.adam.v_stored, Vec(chosen.size()));
      ASSERT_FALSE(::testing::Test::HasFatalFailure())
          << subspace << " " << to_string(shape) << " step " << t;
    }
  }
  judge.report("frugal " + subspace + " " + rest);
}
void frugals(int steps) {
  for (const char* subspace : {"columns", "rows", "coordinates"}) {
    frugal(subspace, "sign", steps);
    frugal(subspace, "sgd", steps);
  }
}
TEST(ExactnessOfSelections, Frugal) {
  frugals(15);
}
TEST(ExactnessOfSelections, SlowFrugal) {
  frugals(1000);
}

}  // namespace
}  // namespace strata::tests
