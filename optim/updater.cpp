#include "optim/updater.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "core/for_each.h"
#include "optim/squares.h"
#include "optim/updater_parts.h"

namespace strata::optim {
namespace {

// Copies and fills are cut into pieces of this many bytes for the team.
constexpr std::int64_t kCopyGrain = 1 << 20;

void copy_bytes(std::span<std::byte> to, std::span<const std::byte> from) {
  STRATA_ASSERT(to.size() == from.size());
  parallel_for(
      static_cast<std::int64_t>(to.size()), kCopyGrain, [&](std::int64_t begin, std::int64_t end) {
        std::memcpy(to.data() + begin, from.data() + begin, static_cast<std::size_t>(end - begin));
      });
}

/// One entry of `partials` for each chunk of the range.
void chunk_norms(const float* grad, std::int64_t numel, double* partials) {
  parallel_for(numel, kChunk, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd([&] {
      for (std::int64_t at = begin; at < end; at += kChunk) {
        partials[at / kChunk] = sum_of_squares(grad + at, std::min(kChunk, end - at));
      }
    });
  });
}

SliceIn gradient_of(const ParamInfo& param,
                    const OwnedRange& range,
                    std::int64_t begin,
                    std::int64_t end,
                    std::span<std::byte> grads) {
  std::byte* const at =
      grads.data() + range.grad_offset + (begin - range.begin) * size_bytes(DType::f32);
  return {Tensor(at, DType::f32, {end - begin}), &param, begin};
}

SliceIn gradient(const ParamInfo& param, const OwnedRange& range, std::span<std::byte> grads) {
  return gradient_of(param, range, range.begin, range.end, grads);
}

/// Whether this update will be thrown away whatever it does: no method need know what to do with a
/// gradient that is no number.
bool is_lost(const UpdatePacks& packs, const StepScalars& scalars) {
  return packs.speculative && scalars.non_finite;
}

}  // namespace

/// A speculative update does not know the clip coefficient yet; it is thrown away unless that is 1.
StepInfo OptimizerUpdater::Impl::step_info(int block,
                                           const OwnedRange& range,
                                           const UpdatePacks& packs,
                                           const StepScalars& scalars) const {
  StepInfo info = scalars.inputs.info;
  if (packs.speculative) {
    info.grad_scale = 1.f;
  } else if (!scalars.block_scales.empty()) {
    info.grad_scale = scalars.block_scales[static_cast<std::size_t>(block)];
  }
  if (const std::int64_t period = method->period_steps(); period > 0) {
    info.turn = layout(block).turns[static_cast<std::size_t>(range.param)];
    info.turn_step = (info.step - 1) % period + 1;
  } else if (factor_steps > 0 && is_factor(block, range.param)) {
    info.turn = Turn::taken;
    info.turn_step = (info.step - 1) % factor_steps + 1;
  }
  return info;
}

Workspace OptimizerUpdater::Impl::workspace_for(const ParamInfo& param,
                                                const Needs& needs,
                                                const UpdatePacks& packs) const {
  const auto wanted = static_cast<std::size_t>(needs.workspace_bytes);
  if (wanted > packs.workspace.size()) {
    throw Error(Errc::internal,
                fmt::format("update: '{}' needs {} bytes of workspace, the pack has {}",
                            param.name,
                            wanted,
                            packs.workspace.size()));
  }
  return {packs.workspace.first(wanted)};
}

/// The generation that this instruction changes, copied first where it is new.
UpdatePacks OptimizerUpdater::Impl::open(const Instruction& instruction, const Held& packs) const {
  const int b = instruction.block;
  const auto held = [&](PackKey key) {
    return packs.contains(key) ? packs[key] : std::span<std::byte>();
  };
  UpdatePacks out;
  out.speculative = packs.contains({PackClass::weights_next, b});
  out.weights = packs[{out.speculative ? PackClass::weights_next : PackClass::weights, b}];
  out.state = held({out.speculative ? PackClass::state_next : PackClass::state, b});
  out.turn_state = held({out.speculative ? PackClass::turn_state_next : PackClass::turn_state, b});
  out.grads = packs[{PackClass::grads, b}];
  out.workspace = held({PackClass::workspace});
  STRATA_ASSERT(static_cast<std::int64_t>(out.state.size()) >= layout(b).state.state_bytes);
  STRATA_ASSERT(static_cast<std::int64_t>(out.turn_state.size()) >=
                layout(b).state.turn_state_bytes);
  if (out.speculative && instruction.phase == 0) {
    copy_bytes(out.weights, packs[{PackClass::weights, b}]);
    copy_bytes(out.state, held({PackClass::state, b}));
    copy_bytes(out.turn_state, held({PackClass::turn_state, b}));
  }
  return out;
}

Needs OptimizerUpdater::Impl::largest_needs() const {
  Needs largest;
  for (const BlockSpec& spec : specs) {
    for (const ParamSpec& param : spec.params) {
      const Needs needs = method->needs(param.info, 1);
      largest.workspace_bytes = std::max(largest.workspace_bytes, needs.workspace_bytes);
      largest.stat_phases = std::max(largest.stat_phases, needs.stat_phases);
    }
  }
  return largest;
}

void OptimizerUpdater::norm(const Instruction& instruction,
                            const Held& packs,
                            StepScalars& scalars) {
  const int b = instruction.block;
  const BlockLayout& layout = impl_->layout(b);
  if (scalars.partials.size() < impl_->blocks.size()) {
    scalars.partials.resize(impl_->blocks.size());
  }
  std::vector<double>& partials = scalars.partials[static_cast<std::size_t>(b)];
  partials.assign(static_cast<std::size_t>(layout.chunks), 0.0);
  if (layout.ranges.empty()) {
    return;
  }
  const std::span<std::byte> grads = packs[{PackClass::grads, b}];
  for (const OwnedRange& range : layout.ranges) {
    if (layout.turns[static_cast<std::size_t>(range.param)] == Turn::frozen) {
      continue;
    }
    const SliceIn grad = gradient(impl_->param(b, range), range, grads);
    chunk_norms(grad.f32(), range.numel(), partials.data() + range.first_chunk);
  }
  for (const double partial : partials) {
    scalars.non_finite = scalars.non_finite || !std::isfinite(partial);
  }
}

void OptimizerUpdater::stats(const Instruction& instruction,
                             const Held& packs,
                             StepScalars& scalars) {
  const int b = instruction.block, phase = instruction.phase;
  const BlockLayout& layout = impl_->layout(b);
  const UpdatePacks open = impl_->open(instruction, packs);
  StatSlots& slots = impl_->slots;
  slots.arrange(*impl_->method, impl_->spec(b), layout, scalars.inputs.info.step);
  if (phase == 0) {
    scalars.stats.clear();
  }
  STRATA_ASSERT(scalars.stats.size() == slots.size(phase));
  scalars.stats.resize(slots.size(phase + 1), 0.0);
  for (const OwnedRange& range : layout.ranges) {
    const Needs& needs = slots.needs(range.param);
    if (!needs.active || needs.stat_phases <= phase || is_lost(open, scalars)) {
      continue;
    }
    const ParamInfo& param = impl_->param(b, range);
    Workspace workspace = impl_->workspace_for(param, needs, open);
    const std::span<const double> totals = slots.totals(scalars.stats, range.param, phase);
    slots.for_each_piece(range, [&](std::int64_t piece, std::int64_t begin, std::int64_t end) {
      impl_->view_piece(b, range, begin, end, open, impl_->views);
      impl_->method->stats(gradient_of(param, range, begin, end, open.grads),
                           impl_->views,
                           totals,
                           slots.slot(scalars.stats, phase, range.param, piece),
                           phase,
                           workspace,
                           impl_->step_info(b, range, open, scalars),
                           compute_stream(DeviceKind::cpu));
    });
  }
  slots.forget_others(scalars.stats, layout.ranges, phase + 1);
}

void OptimizerUpdater::update(const Instruction& instruction,
                              const Held& packs,
                              StepScalars& scalars) {
  const int b = instruction.block;
  const BlockLayout& layout = impl_->layout(b);
  const UpdatePacks open = impl_->open(instruction, packs);
  StatSlots& slots = impl_->slots;
  slots.arrange(*impl_->method, impl_->spec(b), layout, scalars.inputs.info.step);
  for (const OwnedRange& range : layout.ranges) {
    const Needs& needs = slots.needs(range.param);
    if (!needs.active || is_lost(open, scalars)) {
      continue;
    }
    STRATA_ASSERT(needs.stat_phases <= instruction.phase);
    impl_->view_state(b, range, open, impl_->views);
    Slice weight = impl_->slice(b, range, open);
    Workspace workspace = impl_->workspace_for(*weight.param, needs, open);
    impl_->method->update(weight,
                          gradient(impl_->param(b, range), range, open.grads),
                          impl_->views,
                          slots.totals(scalars.stats, range.param, needs.stat_phases),
                          workspace,
                          impl_->step_info(b, range, open, scalars),
                          compute_stream(DeviceKind::cpu));
  }
}

}  // namespace strata::optim
