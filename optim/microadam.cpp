// MicroAdam: Adam over a window of the last m sparse gradients, what they left out being fed back
// in four bits. About 0.96 bytes per parameter; norms and biases are plain Adam's.
//
//   a = g + error;  (indices, values) = the largest density of |a| in each block
//   error <- a without them, in four bits;  the window's oldest row <- (indices, values)
//   m = (1 - beta1) / (1 - beta1^t) sum of beta1^age values;  v the same of their squares
//   w <- w - lr m / (sqrt(v) + eps)
//
// t is not limited to m: a coordinate that is always chosen takes longer steps as t grows, which
// the paper's learning rates count on; window_norm divides by the weights that are there instead.
// Modoranu et al., MicroAdam: accurate adaptive optimization with low space overhead and provable
// convergence, NeurIPS 2024.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/math.h"
#include "optim/composed.h"
#include "optim/decay_scope.h"
#include "optim/sparse_window.h"
#include "optim/weight_update.h"

namespace strata::optim {
namespace {

constexpr std::int64_t kMaxWindow = 64;

class MicroAdam final : public Optimizer {
 public:
  struct Config {
    std::int64_t window = 10;
    double density = 0.01, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
    DecayScope decay = DecayScope::no_vectors;
    bool stochastic_error = false, window_norm = false;
    void fields(auto&& f) {
      f("window", window, "sparse gradients that are kept");
      f("density", density, "share of elements in each of them");
      f("beta1", beta1, "decay rate of the first moment");
      f("beta2", beta2, "decay rate of the second moment");
      f("eps", eps, "added to the root of the second moment");
      f("weight_decay", weight_decay, "decoupled decay, times the learning rate");
      f("decay", decay, "what decays: matrices, no_vectors (embeddings too) or all");
      f("stochastic_error", stochastic_error, "errors are rounded stochastically: none is lost");
      f("window_norm", window_norm, "moments are averages of the window, not of all steps");
    }
    void validate() const {
      require(
          window >= 1 && window <= kMaxWindow, "window", "1 to 64", static_cast<double>(window));
      require(density > 0 && density <= 1,
              "density",
              density > 1 ? "0 < density <= 1; the nearest is 1" : "0 < density <= 1, such as 0.01",
              density);
      require(beta1 >= 0 && beta1 < 1, "beta1", "0 <= beta1 < 1", beta1);
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
      require(weight_decay >= 0, "weight_decay", "a value of at least 0", weight_decay);
    }
  };
  explicit MicroAdam(const Config& config)
      : config_(config),
        window_({.rows = config.window,
                 .density = config.density,
                 .error = ErrorFormat::four_bit,
                 .stochastic_error = config.stochastic_error}),
        vectors_("microadam", adam(config)) {}

  StateLayout state_layout(const ParamInfo& param) const override {
    if (dense(param)) {
      return vectors_.state_layout(param);
    }
    StateLayout layout;
    window_.add_fields(param, layout);
    return layout;
  }
  Granularity granularity(const ParamInfo& param) const override {
    return dense(param) ? vectors_.granularity(param)
                        : Granularity::blocks_of(SparseWindow::kBlock);
  }
  void update(Slice& weight,
              const SliceIn& grad,
              StateViews& state,
              std::span<const double> totals,
              Workspace& workspace,
              const StepInfo& step,
              Stream& stream) override;

 private:
  /// What all blocks of a step share: powers of the decay rates by row of the window.
  struct Ages {
    std::array<float, kMaxWindow> first, second;
    std::int64_t rows = 0;
    float gain1 = 0.f, gain2 = 0.f;
  };
  static bool dense(const ParamInfo& param) { return param.role == Role::vector; }
  static std::vector<Setting> adam(const Config& config) {
    return {{"beta1", to_text(config.beta1)},
            {"beta2", to_text(config.beta2)},
            {"eps", to_text(config.eps)},
            {"weight_decay", to_text(config.weight_decay)},
            {"decay", to_text(config.decay)}};
  }
  Ages ages(std::int64_t t) const;
  /// `next`: memory that the next block will be read from.
  void direction_of(const SparseWindow::Block& block,
                    const Ages& ages,
                    const std::array<const float*, 2>& next,
                    float* direction) const;

  Config config_;
  SparseWindow window_;
  Composed vectors_;
};

MicroAdam::Ages MicroAdam::ages(std::int64_t t) const {
  Ages of;
  of.rows = window_.filled(t);
  double sum1 = 0.0, sum2 = 0.0;
  for (std::int64_t row = 0; row < of.rows; ++row) {
    const auto age = static_cast<double>(window_.age(row, t));
    const double first = std::pow(config_.beta1, age), second = std::pow(config_.beta2, age);
    of.first[static_cast<std::size_t>(row)] = static_cast<float>(first);
    of.second[static_cast<std::size_t>(row)] = static_cast<float>(second);
    sum1 += first;
    sum2 += second;
  }
  const auto gain = [&](double beta, double sum) {
    return config_.window_norm ? 1.0 / sum
                               : (1.0 - beta) / (1.0 - std::pow(beta, static_cast<double>(t)));
  };
  of.gain1 = static_cast<float>(gain(config_.beta1, sum1));
  of.gain2 = static_cast<float>(gain(config_.beta2, sum2));
  return of;
}

void MicroAdam::direction_of(const SparseWindow::Block& block,
                             const Ages& ages,
                             const std::array<const float*, 2>& next,
                             float* direction) const {
  alignas(64) std::array<float, SparseWindow::kBlock> second;
  std::fill(direction, direction + block.n, 0.f);
  std::fill(second.begin(), second.begin() + block.n, 0.f);
  const auto eps = static_cast<float>(config_.eps);
  const float gain1 = ages.gain1, gain2 = ages.gain2;
  const std::int64_t n = block.n;
  cpu::simd([&] {
    float* const v = second.data();
    for (std::int64_t row = 0; row < ages.rows; ++row) {
      const float by1 = ages.first[static_cast<std::size_t>(row)];
      const float by2 = ages.second[static_cast<std::size_t>(row)];
      const std::int16_t* const indices = block.indices + row * block.kept;
      const bf16* const values = block.values + row * block.kept;
      for (std::int64_t i = 0; i < block.kept; ++i) {
        const std::int64_t at = indices[i];
        const float value = to_float(values[i]);
        direction[at] = fma_(by1, value, direction[at]);
        v[at] = fma_(by2, value * value, v[at]);
      }
    }
    constexpr std::int64_t kStrip = 256;
    for (std::int64_t begin = 0; begin < n; begin += kStrip) {
      const std::int64_t end = std::min(n, begin + kStrip);
      for (const float* const memory : next) {
        fetch_ahead(memory + begin, end - begin);
      }
#pragma GCC ivdep
      for (std::int64_t i = begin; i < end; ++i) {
        direction[i] = gain1 * direction[i] / (std::sqrt(gain2 * v[i]) + eps);
      }
    }
  });
}

void MicroAdam::update(Slice& weight,
                       const SliceIn& grad,
                       StateViews& state,
                       std::span<const double> totals,
                       Workspace& workspace,
                       const StepInfo& step,
                       Stream& stream) {
  const ParamInfo& param = *weight.param;
  if (dense(param)) {
    return vectors_.update(weight, grad, state, totals, workspace, step, stream);
  }
  const Ages of = ages(step.step);
  const double decay = decays(config_.decay, param.role) ? config_.weight_decay : 0.0;
  const WeightStep by{.size = step.lr, .decay_before = step.lr * decay};
  const float* const precise = weight.master ? weight.master.data<float>() : grad.f32();
  window_.for_each_block(state, weight.numel(), [&](const SparseWindow::Block& block) {
    alignas(64) std::array<float, SparseWindow::kBlock> direction;
    window_.take_in(block, grad, state, step);
    const std::int64_t end = block.begin + block.n;
    direction_of(block, of, {grad.f32() + end, precise + end}, direction.data());
    move_block(weight, block.begin, block.n, direction.data(), by, step);
  });
}

const Registrar<MicroAdam> registrar{"microadam"};

}  // namespace
}  // namespace strata::optim
