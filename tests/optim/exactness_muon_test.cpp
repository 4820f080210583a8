// Muon, teacher-forced.
#include "tests/optim/teacher.h"
#include "tests/support/twins/muon.h"

namespace strata::tests {
namespace {

using twins::Matrix;
using twins::Vec;

// Of the direction's norm. Newton-Schulz multiplies small singular values by up to 3.4445^5 = 485,
// and the ulps by which its products err with them: those of the directions that hold little of the
// norm.
constexpr double kOrthogonalError = 1e-5;

void muon(const TensorCase& what, const twins::MuonSettings& s, int steps, Judge& judge) {
  const auto numel = static_cast<std::size_t>(what.shape.numel());
  std::vector<float> start = start_values(numel);
  for (float& w : start) {
    w *= 0.01f;  // so that their rounding does not hide the direction's
  }
  OneTensor kernel(what, start);
  Gradients gradients(numel);
  // What the twin calls rows are outputs.
  const auto seen = [&](const Vec& values) {
    const Matrix kept{
        static_cast<std::size_t>(what.shape[0]), static_cast<std::size_t>(what.shape[1]), values};
    return what.output_axis == 1 ? transposed(kept) : kept;
  };
  for (std::int64_t t = 1; t <= steps; ++t) {
    const std::span<const float> g = gradients.next();
    const Vec before = kernel.weights(), m = kernel.values("m");
    kernel.step(g, rate_of(t), clip_of(t));
    const twins::MuonStep twin =
        twins::muon(seen(before), seen(m), seen(clipped(g, t)), s, rate_of(t));
    const Vec got = seen(kernel.weights()).values, want = twin.weights.values;
    double error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      error += std::pow((got[i] - want[i]) / rate_of(t), 2);
    }
    // Of the direction; and weights round where they are.
    const double size = twins::norm(twin.direction.values);
    const double rounding = 0x1p-24 * twins::norm(before) / rate_of(t);
    judge.weights = std::max(judge.weights, std::sqrt(error) / (size + rounding));
    ASSERT_LE(std::sqrt(error), kOrthogonalError * size + 2 * rounding) << "step " << t;
    judge.compare_values(seen(kernel.values("m")).values,
                         twin.m.values,
                         terms_of(seen(m).values, seen(clipped(g, t)).values, 0.05));
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "step " << t;
  }
}

void muons(int steps) {
  Judge judge;
  const twins::MuonSettings s{.weight_decay = 0.1};
  const std::vector<optim::Setting> decay{{"weight_decay", "0.1"}};
  for (const Shape& shape : std::vector<Shape>{{37, 61}, {64, 48}, {7, 300}, {90, 41}}) {
    muon({"muon", decay, shape}, s, steps, judge);
    muon({.method = "muon", .settings = decay, .shape = shape, .output_axis = 1}, s, steps, judge);
  }
  twins::MuonSettings moonlight = s;
  moonlight.scale = twins::MuonSettings::Scale::moonlight;
  moonlight.momentum = twins::MuonSettings::Momentum::plain;
  std::vector<optim::Setting> settings = decay;
  settings.push_back({"ns_scale", "moonlight"});
  settings.push_back({"nesterov", "false"});
  muon({"muon", settings, {64, 48}}, moonlight, steps, judge);
  judge.report("muon");
}
TEST(ExactnessOfMuon, StaysWithinWhatNewtonSchulzMultiplies) {
  muons(5);
}
TEST(ExactnessOfMuon, SlowStaysWithinWhatNewtonSchulzMultiplies) {
  muons(100);
}

}  // namespace
}  // namespace strata::tests
