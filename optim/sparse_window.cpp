#include "optim/sparse_window.h"

#include <algorithm>
#include <array>

#include "core/compress/error_feedback.h"
#include "core/cpu/simd.h"

namespace strata::optim {
namespace {

constexpr ErrorFeedback kFourBit{};

std::span<std::uint8_t> codes_of(const SparseWindow::Block& block, StateViews& state) {
  return {state["error.codes"].data<std::uint8_t>() + block.begin / 2,
          static_cast<std::size_t>(ErrorFeedback::code_bytes(block.n))};
}
std::span<bf16> ranges_of(const SparseWindow::Block& block, StateViews& state) {
  return {state["error.range"].data<bf16>() + 2 * (block.begin / kFourBit.block),
          static_cast<std::size_t>(kFourBit.range_numel(block.n))};
}

}  // namespace

void SparseWindow::add_fields(const ParamInfo& param, StateLayout& layout) const {
  const std::int64_t rest = param.shape.numel() % kBlock;
  const std::int64_t kept = rows() * top_.kept(kBlock);
  const std::int64_t last = rest == 0 ? kept : rows() * top_.kept(rest);
  switch (settings_.error) {
    case ErrorFormat::f32:
      layout.push_back({"error", DType::f32, Granularity::element(), 1});
      break;
    case ErrorFormat::bf16:
      layout.push_back({"error", DType::bf16, Granularity::element(), 1});
      break;
    case ErrorFormat::four_bit:
      layout.push_back({"error.codes", DType::u8, Granularity::blocks_of(2), 1});
      layout.push_back({"error.range", DType::bf16, Granularity::blocks_of(kFourBit.block), 2});
      break;
  }
  layout.push_back({"window.indices", DType::i16, Granularity::blocks_of(kBlock), kept, last});
  layout.push_back({"window.values", DType::bf16, Granularity::blocks_of(kBlock), kept, last});
}

void SparseWindow::add_error(const Block& block, StateViews& state, float* sum) const {
  const std::int64_t n = block.n;
  switch (settings_.error) {
    case ErrorFormat::f32: {
      const float* const error = state["error"].data<float>() + block.begin;
      std::transform(sum, sum + n, error, sum, std::plus<>());
      return;
    }
    case ErrorFormat::bf16: {
      const bf16* const error = state["error"].data<bf16>() + block.begin;
      std::transform(sum, sum + n, error, sum, [](float g, bf16 e) { return g + to_float(e); });
      return;
    }
    case ErrorFormat::four_bit: {
      const std::span<float> both(sum, static_cast<std::size_t>(n));
      return strata::add_error(
          both, both, codes_of(block, state), ranges_of(block, state), kFourBit);
    }
  }
}

void SparseWindow::keep_error(const Block& block,
                              const SliceIn& grad,
                              StateViews& state,
                              const StepInfo& step,
                              const float* left) const {
  switch (settings_.error) {
    case ErrorFormat::f32:
      std::copy(left, left + block.n, state["error"].data<float>() + block.begin);
      return;
    case ErrorFormat::bf16:
      std::transform(left, left + block.n, state["error"].data<bf16>() + block.begin, to_bf16);
      return;
    case ErrorFormat::four_bit:
      break;
  }
  ErrorFeedback feedback = kFourBit;
  feedback.rounding =
      settings_.stochastic_error ? ErrorRounding::stochastic : ErrorRounding::nearest;
  const RandomKey key{step.seed,
                      RandomUse::state_rounding,
                      static_cast<std::uint64_t>(step.step),
                      static_cast<std::uint64_t>(grad.param->id)};
  encode_error(codes_of(block, state),
               ranges_of(block, state),
               {left, static_cast<std::size_t>(block.n)},
               feedback,
               key,
               grad.begin + block.begin);
}

void SparseWindow::take_in(const Block& block,
                           const SliceIn& grad,
                           StateViews& state,
                           const StepInfo& step) const {
  alignas(64) std::array<float, kBlock> sum;
  float* const a = sum.data();
  const float* const g = grad.f32() + block.begin;
  const float scale = step.grad_scale;
  const std::int64_t n = block.n, row = row_of(step.step);
  cpu::simd([&] {
    for (std::int64_t i = 0; i < n; ++i) {
      a[i] = scale * g[i];
    }
  });
  add_error(block, state, a);
  std::int16_t* const indices = block.indices + row * block.kept;
  bf16* const values = block.values + row * block.kept;
  top_k_of_block(indices, a, n, block.kept);
  for (std::int64_t i = 0; i < block.kept; ++i) {
    float& chosen = a[indices[i]];
    values[i] = to_bf16(chosen);
    chosen = 0.f;
  }
  keep_error(block, grad, state, step, a);
}

}  // namespace strata::optim
