#include "optim/orthogonal.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/scratch.h"
#include "core/math.h"
#include "core/matmul.h"
#include "optim/squares.h"

namespace strata::optim {
namespace {

// Quintic iteration whose slope at 0 is steep: singular values land in [0.68, 1.13], not at 1.
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

/// Shapes of the three products of an iteration on x (s, l), s <= l.
struct Products {
  MatmulShape gram, square, step;
  Products(std::int64_t s, std::int64_t l)
      : gram{.m = s, .n = s, .k = l, .form = MatmulForm::abt},
        square{.m = s, .n = s, .k = s, .form = MatmulForm::ab},
        step{.m = s, .n = l, .k = s, .form = MatmulForm::ab} {}
  std::int64_t scratch_bytes() const {
    return std::max(
        {matmul_scratch_bytes(gram), matmul_scratch_bytes(square), matmul_scratch_bytes(step)});
  }
};

}  // namespace

std::int64_t newton_schulz_workspace_bytes(std::int64_t rows, std::int64_t columns) {
  const std::int64_t s = std::min(rows, columns), l = std::max(rows, columns);
  return 2 * cpu::aligned_bytes(4 * s * s) + 2 * cpu::aligned_bytes(4 * s * l) +
         cpu::aligned_bytes(Products(s, l).scratch_bytes());
}

void newton_schulz(const Tensor& matrix,
                   int steps,
                   std::span<std::byte> workspace,
                   Stream& stream) {
  const std::int64_t rows = matrix.shape()[0], columns = matrix.shape()[1];
  const std::int64_t s = std::min(rows, columns), l = std::max(rows, columns);
  const Products products(s, l);
  cpu::Scratch scratch(workspace);
  const Tensor gram = scratch.tensor(DType::f32, {s, s});
  const Tensor mixed = scratch.tensor(DType::f32, {s, s});
  Tensor x = scratch.tensor(DType::f32, {s, l});
  Tensor next = scratch.tensor(DType::f32, {s, l});
  const std::span<std::byte> room = scratch.bytes(products.scratch_bytes());
  if (rows > columns) {
    transpose(x, matrix, rows, columns, stream);
  } else {
    std::copy(matrix.data<float>(), matrix.data<float>() + s * l, x.data<float>());
  }
  const auto inverse =
      static_cast<float>(1.0 / (std::sqrt(sum_of_squares_by_chunk(x.data<float>(), s * l)) + 1e-7));
  for_each(stream, s * l, [at = x.data<float>(), inverse](std::int64_t i) { at[i] *= inverse; });
  for (int step = 0; step < steps; ++step) {
    matmul(gram, x, x, products.gram, Accumulate::overwrite, room, stream);
    matmul(mixed, gram, gram, products.square, Accumulate::overwrite, room, stream);
    for_each(stream, s * s, [a = gram.data<float>(), m = mixed.data<float>()](std::int64_t i) {
      m[i] = fma_(kB, a[i], kC * m[i]);
    });
    matmul(next, mixed, x, products.step, Accumulate::overwrite, room, stream);
    for_each(stream, s * l, [at = x.data<float>(), to = next.data<float>()](std::int64_t i) {
      to[i] = fma_(kA, at[i], to[i]);
    });
    std::swap(x, next);
  }
  if (rows > columns) {
    transpose(matrix, x, columns, rows, stream);
  } else {
    std::copy(x.data<float>(), x.data<float>() + s * l, matrix.data<float>());
  }
}

void OrthogonalUpdate::add_fields(const ParamInfo&,
                                  const Rule& rule,
                                  StateCodec codec,
                                  StateLayout& layout) const {
  for (const Moment& moment : rule.moments()) {
    add_moment_fields(layout, codec, moment);
  }
}

std::int64_t OrthogonalUpdate::workspace_bytes(const ParamInfo& param) const {
  const MatrixShape shape(param);
  return cpu::aligned_bytes(4 * shape.numel()) +
         newton_schulz_workspace_bytes(shape.rows, shape.columns);
}

void OrthogonalUpdate::update(const MatrixStep& step) const {
  const MatrixShape shape(*step.weight.param);
  cpu::Scratch scratch(step.workspace);
  const Tensor direction = scratch.tensor(DType::f32, {shape.rows, shape.columns});
  RuleLoop<float> loop = image_loop(step, shape.numel());
  loop.grad = step.grad;
  loop.weights = &step.weight;
  loop.directions = direction.data<float>();
  step.rule.run({.t = step.info.t(), .coupled_decay = step.coupled_decay}, {}, loop);
  newton_schulz(direction,
                static_cast<int>(config_.ns_steps),
                scratch.bytes(newton_schulz_workspace_bytes(shape.rows, shape.columns)),
                step.stream);
  WeightStep by = step.by;
  by.size *= step.rule.step_factor(step.info.t()) * scale_of(*step.weight.param);
  for_each_tile(shape.numel(), [&](std::int64_t begin, std::int64_t n) {
    move_weights(step.weight, begin, n, direction.data<float>() + begin, by, step.info);
  });
}

double OrthogonalUpdate::scale_of(const ParamInfo& param) const {
  const MatrixShape shape(param);
  const bool turned = param.output_axis == 1;
  const auto outputs = static_cast<double>(turned ? shape.columns : shape.rows);
  const auto inputs = static_cast<double>(turned ? shape.rows : shape.columns);
  return config_.ns_scale == NewtonSchulzScale::muon ? std::sqrt(std::max(1.0, outputs / inputs))
                                                     : 0.2 * std::sqrt(std::max(outputs, inputs));
}

}  // namespace strata::optim
