// Lion. One moment: 4 bytes per parameter in f32.
//
//   u = m + (1 - beta1)(g - m);  w <- w - lr sign(u);  m <- m + (1 - beta2)(g - m)
//
// No bias correction: the first step moves every element by lr. Chen et al., Symbolic discovery of
// optimization algorithms, NeurIPS 2023.
#include "core/math.h"
#include "optim/composition.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

template <class T>
struct LionKernel {
  static constexpr int kMoments = 1;
  T gain1, gain2;
  STRATA_HD T operator()(T g, T, T& m, T&) const {
    const T u = fma_(gain1, g - m, m);
    m = fma_(gain2, g - m, m);
    return sign(u);
  }
};

class Lion final : public ElementRule<Lion> {
 public:
  struct Config {
    double beta1 = 0.9, beta2 = 0.99;
    void fields(auto&& f) {
      f("beta1", beta1, "share of the momentum in the direction");
      f("beta2", beta2, "decay rate of the momentum");
    }
    void validate() const {
      require(beta1 >= 0 && beta1 < 1, "beta1", "0 <= beta1 < 1", beta1);
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
    }
  };
  explicit Lion(const Config& config) : config_(config) {}
  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"m", false}};
    return kMoments;
  }
  template <class T>
  LionKernel<T> kernel(const RuleStep&) const {
    return {.gain1 = static_cast<T>(1.0 - config_.beta1),
            .gain2 = static_cast<T>(1.0 - config_.beta2)};
  }

 private:
  Config config_;
};

const RuleRegistrar<Lion> rule{"lion"};
const Preset preset{"lion", {{"rule", "lion"}, {"weight_decay", "0.3"}}};

}  // namespace
}  // namespace strata::optim
