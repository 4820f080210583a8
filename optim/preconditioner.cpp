// Preconditioners made of the last m sparse gradients of a tensor, with error feedback: EFCP.
//
//   mfac_sparse:  F = damping + 1/m sum of c c^T;  w <- w - lr F^-1 c, c the newest
//   ggt_lowrank:  C of columns beta2^age c;  C^T C + 1e-6 = V S^2 V^T, U = C V / S
//                 w <- w - lr (g / eps + U ((S + eps)^-1 - 1 / eps) U^T g)
//
// Both come to a combination of the window's rows whose m coefficients follow from m sums over the
// tensor and an m x m problem. The published methods see all parameters as one vector; here every
// tensor has a preconditioner of its own, the block diagonal of theirs. State: the error (2 bytes
// per parameter in bf16), 4 m density bytes per parameter, 8 m^2 bytes a tensor. Norms and biases
// are AdamW's. Frantar et al., M-FAC: efficient matrix-free approximations of second-order
// information, NeurIPS 2021; Agarwal et al., Efficient full-matrix adaptive regularization, ICML
// 2019; Modoranu et al., Error feedback can accurately compress preconditioners, ICML 2024.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/compress/scratch_size.h"
#include "core/compress/symmetric_eigen.h"
#include "core/math.h"
#include "optim/composed.h"
#include "optim/decay_scope.h"
#include "optim/natural_gradient.h"
#include "optim/sparse_window.h"
#include "optim/weight_update.h"

namespace strata::optim {
namespace {

constexpr std::int64_t kMaxWindow = 64;

struct WindowConfig {
  std::int64_t window = 32;
  double density = 0.01, weight_decay = 0.0;
  ErrorFormat error = ErrorFormat::bf16;
  DecayScope decay = DecayScope::no_vectors;
  void fields(auto&& f) {
    f("window", window, "sparse gradients that are kept");
    f("density", density, "share of elements in each of them");
    f("error", error, "how what they leave out is kept: f32, bf16 or 4bit");
    f("weight_decay", weight_decay, "decoupled decay of the new weight, times the learning rate");
    f("decay", decay, "what decays: matrices, no_vectors (embeddings too) or all");
  }
  void validate() const {
    require(window >= 1 && window <= kMaxWindow, "window", "1 to 64", static_cast<double>(window));
    require(density > 0 && density <= 1,
            "density",
            density > 1 ? "0 < density <= 1; the nearest is 1" : "0 < density <= 1, such as 0.01",
            density);
    require(weight_decay >= 0, "weight_decay", "a value of at least 0", weight_decay);
  }
};

/// What both methods share. Phase 0 takes the gradient in and sums its products with the window's
/// rows over the tensor; in phase 1 the rank of the tensor's first element, which keeps the Gram
/// matrix, answers with a coefficient for each row.
class WindowPreconditioner : public Optimizer {
 public:
  WindowPreconditioner(const WindowConfig& config, std::string_view method)
      : config_(config),
        window_({.rows = config.window, .density = config.density, .error = config.error}),
        vectors_(method,
                 std::vector<Setting>{{"weight_decay", to_text(config.weight_decay)},
                                      {"decay", to_text(config.decay)}}) {}

  StateLayout state_layout(const ParamInfo& param) const override {
    if (dense(param)) {
      return vectors_.state_layout(param);
    }
    StateLayout layout;
    window_.add_fields(param, layout);
    layout.push_back({"gram", DType::f64, Granularity::whole(), rows() * rows()});
    return layout;
  }
  Granularity granularity(const ParamInfo& param) const override {
    return dense(param) ? vectors_.granularity(param)
                        : Granularity::blocks_of(SparseWindow::kBlock);
  }
  Needs needs(const ParamInfo& param, std::int64_t) const override {
    Needs needs;
    if (!dense(param)) {
      cpu::ScratchSize size;
      Room::lay_out(size, rows());
      needs.workspace_bytes = size.total_bytes();
      needs.stat_phases = 2;
      needs.stats = static_cast<int>(2 * rows());
    }
    return needs;
  }
  void stats(const SliceIn& grad,
             StateViews& state,
             std::span<const double> totals,
             std::span<double> partial,
             int phase,
             Workspace& workspace,
             const StepInfo& step,
             Stream& stream) override;
  void update(Slice& weight,
              const SliceIn& grad,
              StateViews& state,
              std::span<const double> totals,
              Workspace& workspace,
              const StepInfo& step,
              Stream& stream) override;

 protected:
  struct Room {
    double *gram = nullptr, *values = nullptr, *vectors = nullptr;
    std::span<std::byte> rest;
    template <class From>
    static Room lay_out(From& from, std::int64_t m) {
      Room room;
      room.gram = from.template array<double>(m * m);
      room.vectors = from.template array<double>(m * m);
      room.values = from.template array<double>(m);
      room.rest = from.bytes(symmetric_eigen_workspace_bytes(m));
      return room;
    }
  };
  std::int64_t rows() const { return window_.rows(); }
  const SparseWindow& window() const { return window_; }
  /// coefficients (rows) of the window's rows, from the Gram matrix of the filled ones and their
  /// products with g.
  virtual void solve(const double* gram,
                     std::span<const double> with_gradient,
                     std::int64_t t,
                     std::span<double> coefficients,
                     const Room& room,
                     Stream& stream) const = 0;
  /// Of the gradient itself in the direction.
  virtual double gradient_gain() const = 0;

 private:
  static bool dense(const ParamInfo& param) { return param.role == Role::vector; }
  /// Adds the block's products of every filled row with the newest, and with the gradient.
  void add_products(const SparseWindow::Block& block,
                    const SliceIn& grad,
                    const StepInfo& step,
                    std::span<double> products) const;
  void direction_of(const SparseWindow::Block& block,
                    const SliceIn& grad,
                    const StepInfo& step,
                    std::span<const double> coefficients,
                    float* direction) const;
  WindowConfig config_;
  SparseWindow window_;
  Composed vectors_;
};

void WindowPreconditioner::add_products(const SparseWindow::Block& block,
                                        const SliceIn& grad,
                                        const StepInfo& step,
                                        std::span<double> products) const {
  alignas(64) std::array<float, SparseWindow::kBlock> newest;
  std::fill(newest.begin(), newest.begin() + block.n, 0.f);
  const std::int64_t at = window_.row_of(step.step) * block.kept;
  for (std::int64_t i = at; i < at + block.kept; ++i) {
    newest[static_cast<std::size_t>(block.indices[i])] = to_float(block.values[i]);
  }
  const float* const g = grad.f32() + block.begin;
  const auto scale = static_cast<double>(step.grad_scale);
  for (std::int64_t row = 0; row < window_.filled(step.step); ++row) {
    double with_newest = 0.0, with_gradient = 0.0;
    for (std::int64_t i = row * block.kept; i < (row + 1) * block.kept; ++i) {
      const double value = to_float(block.values[i]);
      with_newest +=
          value * static_cast<double>(newest[static_cast<std::size_t>(block.indices[i])]);
      with_gradient += value * scale * static_cast<double>(g[block.indices[i]]);
    }
    products[static_cast<std::size_t>(row)] += with_newest;
    products[static_cast<std::size_t>(rows() + row)] += with_gradient;
  }
}

void WindowPreconditioner::stats(const SliceIn& grad,
                                 StateViews& state,
                                 std::span<const double> totals,
                                 std::span<double> partial,
                                 int phase,
                                 Workspace& workspace,
                                 const StepInfo& step,
                                 Stream& stream) {
  const std::int64_t numel = grad.grad.numel(), m = rows();
  if (phase == 0) {
    window_.for_each_block(state, numel, [&](const SparseWindow::Block& block) {
      window_.take_in(block, grad, state, step);
    });
    // Block after block, so that the sum has one order.
    window_.for_each_block_in_order(state, numel, [&](const SparseWindow::Block& block) {
      add_products(block, grad, step, partial);
    });
    return;
  }
  if (grad.begin != 0) {
    return;
  }
  double* const gram = state["gram"].data<double>();
  const std::int64_t now = window_.row_of(step.step);
  for (std::int64_t row = 0; row < window_.filled(step.step); ++row) {
    gram[now * m + row] = gram[row * m + now] = totals[static_cast<std::size_t>(row)];
  }
  cpu::Scratch scratch(workspace.bytes);
  const Room room = Room::lay_out(scratch, m);
  const auto count = static_cast<std::size_t>(m);
  solve(gram, totals.subspan(count, count), step.step, partial.first(count), room, stream);
}

void WindowPreconditioner::direction_of(const SparseWindow::Block& block,
                                        const SliceIn& grad,
                                        const StepInfo& step,
                                        std::span<const double> coefficients,
                                        float* direction) const {
  const float* const g = grad.f32() + block.begin;
  const double gain = gradient_gain() * static_cast<double>(step.grad_scale);
  const std::int64_t n = block.n;
  // What the window takes away of the gradient is nearly all of it where they agree: in float64.
  alignas(64) std::array<double, SparseWindow::kBlock> sums;
  double* const sum = sums.data();
  cpu::simd([&] {
    for (std::int64_t i = 0; i < n; ++i) {
      sum[i] = gain * static_cast<double>(g[i]);
    }
    for (std::int64_t row = 0; row < window_.filled(step.step); ++row) {
      const double by = coefficients[static_cast<std::size_t>(row)];
      for (std::int64_t i = row * block.kept; i < (row + 1) * block.kept; ++i) {
        double& to = sum[block.indices[i]];
        to = fma_(by, static_cast<double>(to_float(block.values[i])), to);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      direction[i] = static_cast<float>(sum[i]);
    }
  });
}

void WindowPreconditioner::update(Slice& weight,
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
  const double decay = decays(config_.decay, param.role) ? config_.weight_decay : 0.0;
  const WeightStep by{.size = step.lr, .decay_after = step.lr * decay};
  const auto count = static_cast<std::size_t>(rows());
  const std::span<const double> coefficients = totals.subspan(2 * count, count);
  window_.for_each_block(state, weight.numel(), [&](const SparseWindow::Block& block) {
    alignas(64) std::array<float, SparseWindow::kBlock> direction;
    direction_of(block, grad, step, coefficients, direction.data());
    move_block(weight, block.begin, block.n, direction.data(), by, step);
  });
}

class Mfac final : public WindowPreconditioner {
 public:
  struct Config : WindowConfig {
    double damping = 1e-3;
    void fields(auto&& f) {
      WindowConfig::fields(f);
      f("damping", damping, "added to the mean of outer products");
    }
    void validate() const {
      WindowConfig::validate();
      require(damping > 0, "damping", "a value above 0", damping);
    }
  };
  explicit Mfac(const Config& config)
      : WindowPreconditioner(config, "mfac_sparse"), damping_(config.damping) {}

 private:
  /// m (damping m + K)^-1 e_newest: the newest row is in the window, which saves the difference of
  /// two large vectors. Rows not filled count as zeros, and in m.
  void solve(const double* gram,
             std::span<const double>,
             std::int64_t t,
             std::span<double> coefficients,
             const Room& room,
             Stream&) const override {
    const std::int64_t filled = window().filled(t), m = rows();
    for (std::int64_t i = 0; i < filled; ++i) {
      std::copy(gram + i * m, gram + i * m + filled, room.gram + i * filled);
    }
    const auto count = static_cast<double>(m);
    if (!solve_damped(room.gram, room.values, filled, window().row_of(t), damping_ * count)) {
      std::fill(room.values, room.values + filled, 0.0);
    }
    std::transform(room.values, room.values + filled, coefficients.begin(), [&](double x) {
      return count * x;
    });
  }
  double gradient_gain() const override { return 0.0; }
  double damping_;
};

class Ggt final : public WindowPreconditioner {
 public:
  struct Config : WindowConfig {
    double beta2 = 0.999, eps = 1e-2;
    void fields(auto&& f) {
      WindowConfig::fields(f);
      f("beta2", beta2, "decay of a gradient with each step of its age");
      f("eps", eps, "added to the singular values of the window");
    }
    void validate() const {
      WindowConfig::validate();
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
    }
  };
  explicit Ggt(const Config& config)
      : WindowPreconditioner(config, "ggt_lowrank"), beta2_(config.beta2), eps_(config.eps) {}

 private:
  void solve(const double* gram,
             std::span<const double> with_gradient,
             std::int64_t t,
             std::span<double> coefficients,
             const Room& room,
             Stream& stream) const override;
  double gradient_gain() const override { return 1.0 / eps_; }
  double beta2_, eps_;
};

void Ggt::solve(const double* gram,
                std::span<const double> with_gradient,
                std::int64_t t,
                std::span<double> coefficients,
                const Room& room,
                Stream& stream) const {
  const std::int64_t n = window().filled(t), m = rows();
  std::array<double, kMaxWindow> weight, along;
  for (std::int64_t i = 0; i < n; ++i) {
    weight[static_cast<std::size_t>(i)] = std::pow(beta2_, static_cast<double>(window().age(i, t)));
  }
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      room.gram[i * n + j] = weight[static_cast<std::size_t>(i)] *
                                 weight[static_cast<std::size_t>(j)] * gram[i * m + j] +
                             (i == j ? 1e-6 : 0.0);
    }
  }
  const Tensor values(reinterpret_cast<std::byte*>(room.values), DType::f64, {n});
  const Tensor vectors(reinterpret_cast<std::byte*>(room.vectors), DType::f64, {n, n});
  const Tensor matrix(reinterpret_cast<std::byte*>(room.gram), DType::f64, {n, n});
  symmetric_eigen(values, vectors, matrix, room.rest, stream);
  // C_w V / S (f(S)) (C_w V / S)^T g, as coefficients of the unweighted rows.
  for (std::int64_t k = 0; k < n; ++k) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      sum += room.vectors[k * n + i] * weight[static_cast<std::size_t>(i)] *
             with_gradient[static_cast<std::size_t>(i)];
    }
    const double square = std::max(room.values[k], 1e-6), s = std::sqrt(square);
    along[static_cast<std::size_t>(k)] = (1.0 / (s + eps_) - 1.0 / eps_) * sum / square;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < n; ++k) {
      sum += room.vectors[k * n + i] * along[static_cast<std::size_t>(k)];
    }
    coefficients[static_cast<std::size_t>(i)] = weight[static_cast<std::size_t>(i)] * sum;
  }
}

const Registrar<Mfac> mfac{"mfac_sparse"};
const Registrar<Ggt> ggt{"ggt_lowrank"};

}  // namespace
}  // namespace strata::optim
