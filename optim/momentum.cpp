// Momentum as an average. One moment: 4 bytes per parameter in f32.
//
//   m <- m + (1 - beta)(g - m);  direction m, or with nesterov  m + (1 - beta)(g - m) of the new m
//
// With directions of matrices orthogonalised it is Muon: Jordan et al., Muon: an optimizer for
// hidden layers in neural networks, 2024.
#include "core/math.h"
#include "optim/composition.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

template <class T>
struct AverageKernel {
  static constexpr int kMoments = 1;
  T gain, ahead;
  STRATA_HD T operator()(T g, T, T& m, T&) const {
    m = fma_(gain, g - m, m);
    return fma_(ahead, g - m, m);
  }
};

class Momentum final : public ElementRule<Momentum> {
 public:
  struct Config {
    double momentum = 0.95;
    bool nesterov = true;
    void fields(auto&& f) {
      f("momentum", momentum, "decay rate of the average of gradients");
      f("nesterov", nesterov, "step along the average as it will be");
    }
    void validate() const {
      require(momentum >= 0 && momentum < 1, "momentum", "0 <= momentum < 1", momentum);
    }
  };
  explicit Momentum(const Config& config) : config_(config) {}
  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"m", false}};
    return kMoments;
  }
  template <class T>
  AverageKernel<T> kernel(const RuleStep&) const {
    const auto gain = static_cast<T>(1.0 - config_.momentum);
    return {.gain = gain, .ahead = config_.nesterov ? gain : T(0)};
  }

 private:
  Config config_;
};

const RuleRegistrar<Momentum> rule{"momentum"};
const Preset muon{"muon",
                  {{"rule", "momentum"},
                   {"orthogonal", "true"},
                   {"weight_decay", "0"},
                   {"aux.rule", "adam"},
                   {"aux.beta2", "0.95"},
                   {"aux.eps", "1e-10"},
                   {"aux.lr_ratio", "0.015"}}};

}  // namespace
}  // namespace strata::optim
