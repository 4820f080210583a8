#include "optim/updater.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/for_each.h"
#include "optim/block_layout.h"
#include "optim/squares.h"
#include "optim/stat_slots.h"
#include "optim/weight_update.h"

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

/// The packs that one update reads and writes.
struct UpdatePacks {
  std::span<std::byte> weights, state, turn_state, grads, workspace;
  bool speculative = false;  // weights and states are the next generation
};

}  // namespace

struct OptimizerUpdater::Impl {
  std::shared_ptr<Optimizer> method;
  std::vector<BlockSpec> specs;
  WeightFormat format = WeightFormat::f32;
  DType working = DType::f32;
  std::vector<ShardSpec> shards;
  int rank = 0;
  std::uint64_t seed = 0;
  std::int64_t factor_steps = 0;
  std::vector<BlockLayout> blocks;
  // Kept between instructions for their memory, not for what they hold.
  StateViews views;
  StatSlots slots;

  const BlockLayout& layout(int block) const {
    STRATA_ASSERT(block >= 0 && block < static_cast<int>(blocks.size()));
    return blocks[static_cast<std::size_t>(block)];
  }
  bool is_factor(int block, int param) const {
    return std::ranges::any_of(spec(block).factors, [&](const FactorPair& pair) {
      return pair.left == param || pair.right == param;
    });
  }
  const BlockSpec& spec(int block) const { return specs[static_cast<std::size_t>(block)]; }
  const ParamInfo& param(int block, const OwnedRange& range) const {
    return spec(block).params[static_cast<std::size_t>(range.param)].info;
  }
  Slice slice(int block, const OwnedRange& range, const UpdatePacks& packs) const;
  void view_state(int block,
                  const OwnedRange& range,
                  const UpdatePacks& packs,
                  StateViews& to) const;
  /// Of elements [begin, end) of the range, cut where fields may be.
  void view_piece(int block,
                  const OwnedRange& range,
                  std::int64_t begin,
                  std::int64_t end,
                  const UpdatePacks& packs,
                  StateViews& to) const;
  StepInfo step_info(int block,
                     const OwnedRange& range,
                     const UpdatePacks& packs,
                     const StepScalars& scalars) const;
  void init(int block, const UpdatePacks& packs, bool of_turn) const;
  Workspace workspace_for(const ParamInfo& param,
                          const Needs& needs,
                          const UpdatePacks& packs) const;
  UpdatePacks open(const Instruction& instruction, const Held& packs) const;
  Needs largest_needs() const;
};

namespace {

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

/// What the format keeps of the working weights, for weights that were never more precise.
void adopt_working(const Slice& slice) {
  std::array<float, kTile> values;
  for (std::int64_t begin = 0; begin < slice.numel(); begin += kTile) {
    const std::int64_t n = std::min(kTile, slice.numel() - begin);
    for (std::int64_t i = 0; i < n; ++i) {
      values[static_cast<std::size_t>(i)] = slice.working.dtype() == DType::f32
                                                ? slice.working.data<float>()[begin + i]
                                                : to_float(slice.working.data<bf16>()[begin + i]);
    }
    start_weights(slice, begin, n, values.data());
  }
}

/// Whether this update will be thrown away whatever it does: no method need know what to do with a
/// gradient that is no number.
bool is_lost(const UpdatePacks& packs, const StepScalars& scalars) {
  return packs.speculative && scalars.non_finite;
}

}  // namespace

Slice OptimizerUpdater::Impl::slice(int block,
                                    const OwnedRange& range,
                                    const UpdatePacks& packs) const {
  const ParamInfo& info = param(block, range);
  const auto field = [&](std::size_t f, DType dtype) {
    const OwnedRange::Field& at = range.weight[f];
    const auto& pack = range.weight_in_turn ? packs.turn_state : packs.state;
    return Tensor(pack.data() + at.offset, dtype, {at.numel});
  };
  Slice out{.param = &info,
            .begin = range.begin,
            .format = format_of(format, info, working),
            .master = {},
            .working = Tensor(packs.weights.data() + range.weight_offset, working, {range.numel()}),
            .residue = {},
            .codes = {},
            .affine = {}};
  switch (out.format) {
    case WeightFormat::f32:
      std::swap(out.master, out.working);
      break;
    case WeightFormat::bf16_master:
      out.master = field(0, DType::f32);
      break;
    case WeightFormat::bf16_stochastic:
      break;
    case WeightFormat::bf16_kahan:
      out.residue = field(0, DType::bf16);
      break;
    case WeightFormat::int8:
      out.codes = field(0, DType::u8);
      out.affine = field(1, DType::f32);
      break;
  }
  return out;
}

void OptimizerUpdater::Impl::view_state(int block,
                                        const OwnedRange& range,
                                        const UpdatePacks& packs,
                                        StateViews& to) const {
  view_piece(block, range, range.begin, range.end, packs, to);
}

void OptimizerUpdater::Impl::view_piece(int block,
                                        const OwnedRange& range,
                                        std::int64_t begin,
                                        std::int64_t end,
                                        const UpdatePacks& packs,
                                        StateViews& to) const {
  const StateLayout& fields = layout(block).fields[static_cast<std::size_t>(range.param)];
  const auto& pack = range.fields_in_turn ? packs.turn_state : packs.state;
  const Shape& shape = param(block, range).shape;
  to.clear();
  for (std::size_t f = 0; f < range.fields.size(); ++f) {
    const StateField& field = fields[f];
    const std::int64_t before = field_numel(field, shape, range.begin, begin);
    std::byte* const at = pack.data() + range.fields[f].offset + before * size_bytes(field.dtype);
    to.set(field.name, Tensor(at, field.dtype, {field_numel(field, shape, begin, end)}));
  }
}

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

OptimizerUpdater::OptimizerUpdater(std::shared_ptr<Optimizer> method,
                                   std::vector<BlockSpec> specs,
                                   std::vector<ShardSpec> shards,
                                   int rank,
                                   WeightFormat format,
                                   DType working,
                                   std::uint64_t seed)
    : impl_(std::make_unique<Impl>()) {
  impl_->method = std::move(method);
  impl_->specs = std::move(specs);
  impl_->format = format;
  impl_->working = working;
  std::ranges::sort(
      shards, {}, [](const ShardSpec& s) { return std::tuple(s.tensor, s.begin, s.end); });
  impl_->shards = std::move(shards);
  impl_->rank = rank;
  impl_->seed = seed;
  enter(1);
}

void OptimizerUpdater::enter(std::int64_t step) {
  Impl& m = *impl_;
  const auto by_block = turns(step);
  m.blocks.clear();
  for (std::size_t b = 0; b < m.specs.size(); ++b) {
    m.blocks.push_back(lay_out(*m.method,
                               m.specs[b],
                               m.shards,
                               m.rank,
                               static_cast<int>(b),
                               m.format,
                               m.working,
                               by_block[b]));
  }
}

std::int64_t OptimizerUpdater::period_steps() const {
  return impl_->method->period_steps();
}

std::int64_t OptimizerUpdater::period_of(std::int64_t step) const {
  const std::int64_t period = period_steps();
  return period > 0 ? (step - 1) / period : 0;
}

std::vector<std::vector<Turn>> OptimizerUpdater::turns(std::int64_t step) const {
  return impl_->method->turns(impl_->specs, period_of(step), impl_->seed);
}

std::vector<int> OptimizerUpdater::frozen() const {
  std::vector<int> blocks;
  for (std::size_t b = 0; b < impl_->blocks.size(); ++b) {
    const std::vector<Turn>& turns = impl_->blocks[b].turns;
    if (!turns.empty() &&
        std::ranges::all_of(turns, [](Turn turn) { return turn == Turn::frozen; })) {
      blocks.push_back(static_cast<int>(b));
    }
  }
  return blocks;
}

std::vector<int> OptimizerUpdater::in_turn() const {
  std::vector<int> blocks;
  for (std::size_t b = 0; b < impl_->blocks.size(); ++b) {
    if (std::ranges::find(impl_->blocks[b].turns, Turn::taken) != impl_->blocks[b].turns.end()) {
      blocks.push_back(static_cast<int>(b));
    }
  }
  return blocks;
}

OptimizerUpdater::~OptimizerUpdater() = default;

const BlockState& OptimizerUpdater::block(int index) const {
  return impl_->layout(index).state;
}

std::int64_t OptimizerUpdater::workspace_bytes() const {
  return impl_->largest_needs().workspace_bytes;
}

int OptimizerUpdater::stat_phases() const {
  return impl_->largest_needs().stat_phases;
}

/// Of the state that lasts, or of what begins with a turn.
void OptimizerUpdater::Impl::init(int block, const UpdatePacks& packs, bool of_turn) const {
  StateViews fields;
  for (const OwnedRange& range : layout(block).ranges) {
    if (!range.fields.empty() && range.fields_in_turn == of_turn) {
      view_state(block, range, packs, fields);
      method->init(param(block, range), fields, compute_stream(DeviceKind::cpu));
    }
    if (!range.weight.empty() && range.weight_in_turn == of_turn) {
      adopt_working(slice(block, range, packs));
    }
  }
}

void OptimizerUpdater::init_state(int block,
                                  std::span<std::byte> weights,
                                  std::span<std::byte> state) const {
  std::ranges::fill(state, std::byte{0});
  UpdatePacks packs;
  packs.weights = weights;
  packs.state = state;
  impl_->init(block, packs, false);
}

void OptimizerUpdater::init_turn(int block,
                                 std::span<std::byte> weights,
                                 std::span<std::byte> turn_state) const {
  std::ranges::fill(turn_state, std::byte{0});
  UpdatePacks packs;
  packs.weights = weights;
  packs.turn_state = turn_state;
  impl_->init(block, packs, true);
}

void OptimizerUpdater::restart_factors_every(std::int64_t steps) {
  impl_->factor_steps = steps;
}

void OptimizerUpdater::forget(int block, TensorId tensor, std::span<std::byte> state) const {
  UpdatePacks packs;
  packs.state = state;
  StateViews fields;
  for (const OwnedRange& range : impl_->layout(block).ranges) {
    const ParamInfo& param = impl_->param(block, range);
    if (param.id == tensor && !range.fields_in_turn) {
      impl_->view_state(block, range, packs, fields);
      impl_->method->forget(param, fields, compute_stream(DeviceKind::cpu));
    }
  }
}

void OptimizerUpdater::start_weights(int block,
                                     TensorId tensor,
                                     std::int64_t begin,
                                     std::span<const float> values,
                                     std::span<std::byte> weights,
                                     std::span<std::byte> state,
                                     std::span<std::byte> turn_state) const {
  UpdatePacks packs;
  packs.weights = weights;
  packs.state = state;
  packs.turn_state = turn_state;
  const std::int64_t end = begin + static_cast<std::int64_t>(values.size());
  for (const OwnedRange& range : impl_->layout(block).ranges) {
    const std::int64_t first = std::max(begin, range.begin), last = std::min(end, range.end);
    const Turn turn = impl_->layout(block).turns[static_cast<std::size_t>(range.param)];
    const bool kept = turn != Turn::frozen || !range.weight.empty();
    if (impl_->param(block, range).id == tensor && first < last && kept) {
      optim::start_weights(impl_->slice(block, range, packs),
                           first - range.begin,
                           last - first,
                           values.data() + (first - begin));
    }
  }
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
