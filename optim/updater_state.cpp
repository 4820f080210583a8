// What an updater keeps: layouts of a period, and state as it begins.
#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "optim/updater_parts.h"
#include "optim/weight_update.h"

namespace strata::optim {
namespace {

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

}  // namespace

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

}  // namespace strata::optim
