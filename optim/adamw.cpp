// AdamW: Adam with decoupled weight decay. State: 8 bytes per parameter (float m, v).
//
//   m <- m + (1 - beta1)(g - m);  v <- v + (1 - beta2)(g^2 - v)
//   w <- (1 - lr lambda) w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//
// Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015. Loshchilov and Hutter,
// Decoupled weight decay regularization, ICLR 2019.
#include <cmath>

#include "core/for_each.h"
#include "core/math.h"
#include "optim/decay_scope.h"
#include "optim/registry.h"
#include "optim/scalar.h"

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

// Decay is fma(-lr lambda, w, w), not w * (1 - lr lambda): the rounded constant errs in the same
// direction every step. Moments move by a fraction of the difference for the same reason.
template <class T>
struct AdamWRule {
  WeightView<T> w;
  const T* g;
  T *m, *v;
  T scale, gain1, gain2, step_size, eps, decay_before, decay_after;
  STRATA_HD void operator()(std::int64_t i) const {
    const T gradient = scale * g[i];
    const T m_i = fma_(gain1, gradient - m[i], m[i]);
    const T v_i = fma_(gain2, gradient * gradient - v[i], v[i]);
    m[i] = m_i;
    v[i] = v_i;
    const T old = w.load(i);
    const T decayed = fma_(-decay_before, old, old);
    const T moved = fma_(-step_size, m_i / (std::sqrt(v_i) + eps), decayed);
    w.store(i, fma_(-decay_after, moved, moved));
  }
};

class AdamW final : public Optimizer {
 public:
  struct Config {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    DecayScope decay = DecayScope::no_vectors;
    Family family = Family::pytorch;
    void fields(auto&& f) {
      f("beta1", beta1, "decay rate of the first moment");
      f("beta2", beta2, "decay rate of the second moment");
      f("eps", eps, "added to the root of the second moment");
      f("weight_decay", weight_decay, "decoupled decay, times the learning rate");
      f("decay", decay, "what decays: matrices, no_vectors (embeddings too) or all");
      f("family", family, "place of eps and decay as in pytorch, bnb or hf");
    }
    void validate() const {
      require(beta1 >= 0 && beta1 < 1, "beta1", "0 <= beta1 < 1", beta1);
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
      // Below, a float eps vanishes and an element without gradient becomes 0/0.
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
      require(weight_decay >= 0, "weight_decay", "a value of at least 0", weight_decay);
    }
  };
  explicit AdamW(const Config& config) : config_(config) {}

  StateLayout state_layout(const ParamInfo&) const override {
    return {{"m", DType::f32, Granularity::element(), 1},
            {"v", DType::f32, Granularity::element(), 1}};
  }

  void update(Slice& weight,
              const SliceIn& grad,
              StateViews& state,
              std::span<const double>,
              Workspace&,
              const StepInfo& step,
              Stream& stream) override {
    const auto t = static_cast<double>(step.step);
    const double correction1 = 1.0 - std::pow(config_.beta1, t);
    const double root = std::sqrt(1.0 - std::pow(config_.beta2, t));
    // One form for all families: numerator and denominator are both multiplied by `root`.
    const double step_size = step.lr * root / correction1;
    const double eps = config_.family == Family::hf ? config_.eps : config_.eps * root;
    const double decay =
        decays(config_.decay, weight.param->role) ? step.lr * config_.weight_decay : 0.0;
    const bool before = config_.family == Family::pytorch;
    with_scalar(weight, [&](auto zero) {
      using T = decltype(zero);
      for_each(stream,
               weight.numel(),
               AdamWRule<T>{.w = weight.view<T>(),
                            .g = grad.grad.data<T>(),
                            .m = state["m"].data<T>(),
                            .v = state["v"].data<T>(),
                            .scale = static_cast<T>(step.grad_scale),
                            .gain1 = static_cast<T>(1.0 - config_.beta1),
                            .gain2 = static_cast<T>(1.0 - config_.beta2),
                            .step_size = static_cast<T>(step_size),
                            .eps = static_cast<T>(eps),
                            .decay_before = static_cast<T>(before ? decay : 0.0),
                            .decay_after = static_cast<T>(before ? 0.0 : decay)});
    });
  }

 private:
  Config config_;
};

const Registrar<AdamW> registrar{"adamw"};

}  // namespace
}  // namespace strata::optim
