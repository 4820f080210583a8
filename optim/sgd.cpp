// SGD with momentum. State: 4 bytes per parameter (float b), none without momentum.
//
//   g <- g + lambda w;  b <- mu b + (1 - dampening) g  (b <- g in the first step)
//   w <- w - lr b, or with nesterov  w <- w - lr (g + mu b)
//
// Polyak, Some methods of speeding up the convergence of iteration methods, 1964. Sutskever et al.,
// On the importance of initialization and momentum in deep learning, ICML 2013.
#include "core/for_each.h"
#include "core/math.h"
#include "optim/decay_scope.h"
#include "optim/registry.h"
#include "optim/scalar.h"

namespace strata::optim {
namespace {

template <class T>
struct SgdRule {
  WeightView<T> w;
  const T* g;
  T lr, scale, coupled, decoupled;
  STRATA_HD void operator()(std::int64_t i) const {
    const T old = w.load(i);
    const T gradient = fma_(coupled, old, scale * g[i]);
    w.store(i, fma_(-lr, gradient, fma_(-decoupled, old, old)));
  }
};

template <class T>
struct MomentumRule {
  WeightView<T> w;
  const T* g;
  T* b;
  T lr, scale, coupled, decoupled, keep, gain;
  T from_g, from_b;  // direction = from_g g + from_b b: (0, 1), or (1, mu) with nesterov
  STRATA_HD void operator()(std::int64_t i) const {
    const T old = w.load(i);
    const T gradient = fma_(coupled, old, scale * g[i]);
    const T b_i = fma_(keep, b[i], gain * gradient);
    b[i] = b_i;
    const T direction = fma_(from_b, b_i, from_g * gradient);
    w.store(i, fma_(-lr, direction, fma_(-decoupled, old, old)));
  }
};

class Sgd final : public Optimizer {
 public:
  struct Config {
    double momentum = 0.0, dampening = 0.0, weight_decay = 0.0;
    bool nesterov = false, decoupled = false;
    DecayScope decay = DecayScope::no_vectors;
    void fields(auto&& f) {
      f("momentum", momentum, "share of the last direction that is kept; 0: no state");
      f("dampening", dampening, "share of the gradient that does not enter the momentum");
      f("nesterov", nesterov, "step along the momentum as it will be");
      f("weight_decay", weight_decay, "decay, added to the gradient unless decoupled");
      f("decoupled", decoupled, "decay the weight directly, times the learning rate");
      f("decay", decay, "what decays: matrices, no_vectors (embeddings too) or all");
    }
    void validate() const {
      require(momentum >= 0 && momentum < 1, "momentum", "0 <= momentum < 1", momentum);
      require(dampening >= 0 && dampening <= 1, "dampening", "0 <= dampening <= 1", dampening);
      require(weight_decay >= 0, "weight_decay", "a value of at least 0", weight_decay);
      require(!nesterov || momentum > 0, "momentum", "a value above 0 for nesterov", momentum);
      require(!nesterov || dampening == 0, "dampening", "0 for nesterov", dampening);
    }
  };
  explicit Sgd(const Config& config) : config_(config) {}

  StateLayout state_layout(const ParamInfo&) const override {
    if (config_.momentum == 0.0) {
      return {};
    }
    return {{"b", DType::f32, Granularity::element(), 1}};
  }

  void update(Slice& weight,
              const SliceIn& grad,
              StateViews& state,
              std::span<const double>,
              Workspace&,
              const StepInfo& step,
              Stream& stream) override {
    const double decay = decays(config_.decay, weight.param->role) ? config_.weight_decay : 0.0;
    with_scalar(weight, [&](auto zero) {
      using T = decltype(zero);
      const SgdRule<T> plain{.w = weight.view<T>(),
                             .g = grad.grad.data<T>(),
                             .lr = static_cast<T>(step.lr),
                             .scale = static_cast<T>(step.grad_scale),
                             .coupled = static_cast<T>(config_.decoupled ? 0.0 : decay),
                             .decoupled = static_cast<T>(config_.decoupled ? step.lr * decay : 0)};
      if (config_.momentum == 0.0) {
        for_each(stream, weight.numel(), plain);
      } else {
        for_each(stream, weight.numel(), with_momentum(plain, state["b"].data<T>(), step));
      }
    });
  }

 private:
  template <class T>
  MomentumRule<T> with_momentum(const SgdRule<T>& plain, T* b, const StepInfo& step) const {
    const double gain = step.step == 1 ? 1.0 : 1.0 - config_.dampening;
    return {.w = plain.w,
            .g = plain.g,
            .b = b,
            .lr = plain.lr,
            .scale = plain.scale,
            .coupled = plain.coupled,
            .decoupled = plain.decoupled,
            .keep = static_cast<T>(config_.momentum),
            .gain = static_cast<T>(gain),
            .from_g = static_cast<T>(config_.nesterov ? 1.0 : 0.0),
            .from_b = static_cast<T>(config_.nesterov ? config_.momentum : 1.0)};
  }

  Config config_;
};

const Registrar<Sgd> registrar{"sgd"};

}  // namespace
}  // namespace strata::optim
