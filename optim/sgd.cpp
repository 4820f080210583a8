// SGD with momentum. One moment, 4 bytes per parameter in f32; none without momentum.
//
//   g <- g + lambda w;  b <- mu b + (1 - dampening) g  (b <- g in the first step)
//   w <- w - lr b, or with nesterov  w <- w - lr (g + mu b)
//
// Polyak, Some methods of speeding up the convergence of iteration methods, 1964. Sutskever et al.,
// On the importance of initialization and momentum in deep learning, ICML 2013.
#include "core/math.h"
#include "optim/composition.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

template <class T>
struct PlainKernel {
  static constexpr bool kReadsWeight = true;
  T coupled;
  STRATA_HD T operator()(T g, T w, T&, T&) const { return fma_(coupled, w, g); }
};

template <class T>
struct MomentumKernel {
  static constexpr int kMoments = 1;
  static constexpr bool kReadsWeight = true;
  T coupled, keep, gain;
  T from_g, from_b;  // direction = from_g g + from_b b: (0, 1), or (1, mu) with nesterov
  STRATA_HD T operator()(T g, T w, T& b, T&) const {
    const T gradient = fma_(coupled, w, g);
    b = fma_(keep, b, gain * gradient);
    return fma_(from_b, b, from_g * gradient);
  }
};

class Sgd final : public Rule {
 public:
  struct Config {
    double momentum = 0.0, dampening = 0.0;
    bool nesterov = false, decoupled = false;
    void fields(auto&& f) {
      f("momentum", momentum, "share of the last direction that is kept; 0: no state");
      f("dampening", dampening, "share of the gradient that does not enter the momentum");
      f("nesterov", nesterov, "step along the momentum as it will be");
      f("decoupled", decoupled, "decay the weight directly, times the learning rate");
    }
    void validate() const {
      require(momentum >= 0 && momentum < 1, "momentum", "0 <= momentum < 1", momentum);
      require(dampening >= 0 && dampening <= 1, "dampening", "0 <= dampening <= 1", dampening);
      require(!nesterov || momentum > 0, "momentum", "a value above 0 for nesterov", momentum);
      require(!nesterov || dampening == 0, "dampening", "0 for nesterov", dampening);
    }
  };
  explicit Sgd(const Config& config) : config_(config) {}

  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"b", false}};
    return config_.momentum == 0.0 ? std::span<const Moment>() : kMoments;
  }
  bool couples_decay() const override { return !config_.decoupled; }
  void run(const RuleStep& step, const RuleSlice&, RuleLoop<float>& loop) const override {
    run_as(step, loop);
  }
  void run(const RuleStep& step, const RuleSlice&, RuleLoop<double>& loop) const override {
    run_as(step, loop);
  }

 private:
  template <class T>
  void run_as(const RuleStep& step, RuleLoop<T>& loop) const {
    const auto coupled = static_cast<T>(step.coupled_decay);
    if (config_.momentum == 0.0) {
      return loop.run(PlainKernel<T>{.coupled = coupled});
    }
    loop.run(
        MomentumKernel<T>{.coupled = coupled,
                          .keep = static_cast<T>(config_.momentum),
                          .gain = static_cast<T>(step.t == 1 ? 1.0 : 1.0 - config_.dampening),
                          .from_g = static_cast<T>(config_.nesterov ? 1.0 : 0.0),
                          .from_b = static_cast<T>(config_.nesterov ? config_.momentum : 1.0)});
  }
  Config config_;
};

const RuleRegistrar<Sgd> rule{"sgd"};
const Preset preset{"sgd", {{"rule", "sgd"}, {"weight_decay", "0"}}};

}  // namespace
}  // namespace strata::optim
