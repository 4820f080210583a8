// Adam. Two moments: 8 bytes per parameter in f32.
//
//   m <- m + (1 - beta1)(g - m);  v <- v + (1 - beta2)(g^2 - v)
//   w <- w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//
// Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015. With decoupled decay:
// Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019.
#include <cmath>

#include "core/lane.h"
#include "optim/composition.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

/// Where eps stands and when decay acts; published code differs, and so do its numbers.
enum class Family : std::uint8_t {
  pytorch,  // decay on the old weight
  bnb,      // bitsandbytes CUDA: decay on the new weight
  hf,       // old Transformers, GaLore and kin: eps not corrected for bias, decay on the new weight
};
constexpr std::array<std::string_view, 3> choices(Family) {
  return {"pytorch", "bnb", "hf"};
}

// Moments move by a fraction of the difference: 1 - beta rounds in the same direction every step.
template <class T>
struct AdamKernel {
  static constexpr int kMoments = 2;
  T gain1, gain2, eps;
  template <class F>
  STRATA_HD F operator()(const F& g, const F&, F& m, F& v) const {
    m = fma_(F(gain1), g - m, m);
    v = fma_(F(gain2), fma_(g, g, -v), v);
    return m / (sqrt_(v) + F(eps));
  }
};

class Adam final : public ElementRule<Adam> {
 public:
  struct Config {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
    Family family = Family::pytorch;
    void fields(auto&& f) {
      f("beta1", beta1, "decay rate of the first moment");
      f("beta2", beta2, "decay rate of the second moment");
      f("eps", eps, "added to the root of the second moment");
      f("family", family, "place of eps and decay as in pytorch, bnb or hf");
    }
    void validate() const {
      require(beta1 >= 0 && beta1 < 1, "beta1", "0 <= beta1 < 1", beta1);
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
      // Below, a float eps vanishes and an element without gradient becomes 0/0.
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
    }
  };
  explicit Adam(const Config& config) : config_(config) {}

  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"m", false}, {"v", true}};
    return kMoments;
  }
  // One form for all families: numerator and denominator are both multiplied by the root.
  double step_factor(std::int64_t t) const override {
    return root(t) / (1.0 - std::pow(config_.beta1, static_cast<double>(t)));
  }
  bool decays_after() const override { return config_.family != Family::pytorch; }

  template <class T>
  AdamKernel<T> kernel(const RuleStep& step) const {
    const double eps = config_.family == Family::hf ? config_.eps : config_.eps * root(step.t);
    return {.gain1 = static_cast<T>(1.0 - config_.beta1),
            .gain2 = static_cast<T>(1.0 - config_.beta2),
            .eps = static_cast<T>(eps)};
  }

 private:
  double root(std::int64_t t) const {
    return std::sqrt(1.0 - std::pow(config_.beta2, static_cast<double>(t)));
  }
  Config config_;
};

const RuleRegistrar<Adam> rule{"adam"};
const Preset adamw{"adamw", {{"rule", "adam"}, {"weight_decay", "0.1"}}};

}  // namespace
}  // namespace strata::optim
