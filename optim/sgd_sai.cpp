// SGD-SaI: SGD with momentum whose learning rate each tensor scales once, by the signal-to-noise
// ratio of its first gradient. 4 bytes per parameter and one number per tensor.
//
//   gain = |g| / (deviation of g's elements + eps), of the first g that is not zero, in
//          [1, 10 sqrt(numel)]; 1 for tensors of one element
//   b <- g in that step, then mu b + (1 - mu) g;  w <- w - lr gain b
//
// The bounds and the wait for a gradient are ours: without them a tensor of one element explodes
// and one whose first gradient is zero never moves. Xu et al., No more Adam: learning rate scaling
// at initialization is all you need, 2024.
#include <algorithm>
#include <cmath>

#include "core/math.h"
#include "optim/composition.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

template <class T>
struct GainedAverageKernel {
  static constexpr int kMoments = 1;
  T mix, gain;
  STRATA_HD T operator()(T g, T, T& b, T&) const {
    b = fma_(mix, g - b, b);
    return gain * b;
  }
};

class SgdSai final : public Rule {
 public:
  struct Config {
    double momentum = 0.9, eps = 1e-8;
    void fields(auto&& f) {
      f("momentum", momentum, "decay rate of the average of gradients");
      f("eps", eps, "added to the deviation of the first gradient");
    }
    void validate() const {
      require(momentum >= 0 && momentum < 1, "momentum", "0 <= momentum < 1", momentum);
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
    }
  };
  explicit SgdSai(const Config& config) : config_(config) {}

  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"b", false}};
    return kMoments;
  }
  void add_fields(const ParamInfo&, StateLayout& layout) const override {
    layout.push_back({"gain", DType::f32, Granularity::whole(), 1});
  }
  bool elementwise() const override { return false; }
  /// First the gain, which the rank of the tensor's first element keeps; where there is none yet,
  /// the moments of the gradient's elements.
  RuleStats stat_needs() const override { return {.phases = 2, .stats = 3}; }
  void stats(const SliceIn& grad,
             float scale,
             StateViews& state,
             std::span<const double> totals,
             std::span<double> partial,
             int phase) const override;
  void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<float>& loop) const override {
    run_as(step, slice, loop);
  }
  void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<double>& loop) const override {
    run_as(step, slice, loop);
  }

 private:
  double first_gain(double n, double sum, double squares) const;
  template <class T>
  void run_as(const RuleStep& step, const RuleSlice& slice, RuleLoop<T>& loop) const {
    const std::span<const double> known = step.totals;
    const bool first = known[0] == 0.0;
    // Kept as a float, and used as it is kept.
    const auto gain = first ? static_cast<float>(first_gain(known[3], known[4], known[5]))
                            : static_cast<float>(known[0]);
    if (slice.begin == 0) {
      (*slice.state)["gain"].template data<float>()[0] = gain;
    }
    loop.run(GainedAverageKernel<T>{.mix = static_cast<T>(first ? 1.0 : 1.0 - config_.momentum),
                                    .gain = static_cast<T>(gain)});
  }
  Config config_;
};

void SgdSai::stats(const SliceIn& grad,
                   float scale,
                   StateViews& state,
                   std::span<const double> totals,
                   std::span<double> partial,
                   int phase) const {
  if (phase == 0) {
    partial[0] = grad.begin == 0 ? static_cast<double>(state["gain"].data<float>()[0]) : 0.0;
    return;
  }
  if (totals[0] != 0.0) {
    return;
  }
  const float* const g = grad.f32();
  const std::int64_t numel = grad.grad.numel();
  partial[0] = static_cast<double>(numel);
  for (std::int64_t begin = 0; begin < numel; begin += kChunk) {
    double sum = 0.0, squares = 0.0;
    for (std::int64_t i = begin; i < std::min(numel, begin + kChunk); ++i) {
      const auto value = static_cast<double>(scale * g[i]);
      sum += value;
      squares += value * value;
    }
    partial[1] += sum;
    partial[2] += squares;
  }
}

/// 0: there was no gradient.
double SgdSai::first_gain(double n, double sum, double squares) const {
  if (squares == 0.0) {
    return 0.0;
  }
  if (n < 2.0) {
    return 1.0;
  }
  const double variance = std::max(0.0, (squares - sum * sum / n) / (n - 1.0));
  const double ratio = std::sqrt(squares) / (std::sqrt(variance) + config_.eps);
  return std::clamp(ratio, 1.0, 10.0 * std::sqrt(n));
}

const RuleRegistrar<SgdSai> rule{"sgd_sai"};
const Preset preset{"sgd_sai", {{"rule", "sgd_sai"}, {"weight_decay", "0.01"}}};

}  // namespace
}  // namespace strata::optim
