#include "optim/block_layout.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/error.h"
#include "core/for_each.h"
#include "optim/cuts.h"
#include "optim/weight_update.h"

namespace strata::optim {
namespace {

/// The shards of one parameter, checked: in order, without gap or overlap, cut where it is allowed.
std::span<const ShardSpec> shards_of(const ParamInfo& param,
                                     std::int64_t unit,
                                     std::span<const ShardSpec> shards) {
  const auto [first, last] = std::ranges::equal_range(shards, param.id, {}, &ShardSpec::tensor);
  const std::int64_t numel = param.shape.numel();
  std::int64_t covered = 0;
  for (auto shard = first; shard != last; ++shard) {
    if (shard->begin != covered || shard->end < shard->begin || shard->end > numel) {
      throw Error(Errc::internal,
                  fmt::format("shards: '{}' needs a range that starts at {} and ends by {}, got "
                              "[{}, {})",
                              param.name,
                              covered,
                              numel,
                              shard->begin,
                              shard->end));
    }
    covered = shard->end;
    if (covered < numel && covered % unit != 0) {
      throw Error(Errc::internal,
                  fmt::format("shards: '{}' {} may not be cut at element {}; cut at multiples of "
                              "{}",
                              param.name,
                              to_string(param.shape),
                              covered,
                              unit));
    }
  }
  if (covered != numel) {
    throw Error(
        Errc::internal,
        fmt::format(
            "shards: '{}' needs owners for {} elements, got {}", param.name, numel, covered));
  }
  return {first, last};
}

std::int64_t chunks_in(std::int64_t numel) {
  return (numel + kChunk - 1) / kChunk;
}

PackLayout layout_of(const BlockSpec& spec, DType dtype) {
  std::vector<std::int64_t> bytes;
  for (const ParamSpec& param : spec.params) {
    bytes.push_back(param.info.shape.numel() * size_bytes(dtype));
  }
  return pack_layout(bytes);
}

/// Ranges with everything but their places in the state pack.
void cut_params(BlockLayout& layout,
                const Optimizer& method,
                const BlockSpec& spec,
                std::span<const ShardSpec> shards,
                int rank,
                DType weight_dtype) {
  for (std::size_t p = 0; p < spec.params.size(); ++p) {
    const ParamInfo& param = spec.params[p].info;
    const ShardSpec whole{param.id, 0, param.shape.numel(), rank};
    const std::int64_t unit = cut_unit(method, param);
    for (const ShardSpec& cut :
         shards.empty() ? std::span(&whole, 1) : shards_of(param, unit, shards)) {
      if (cut.owner == rank && cut.end > cut.begin) {
        OwnedRange& range = layout.ranges.emplace_back();
        range.param = static_cast<int>(p);
        range.begin = cut.begin;
        range.end = cut.end;
        range.weight_offset = layout.state.weights.offset[p] + cut.begin * size_bytes(weight_dtype);
        range.grad_offset = layout.state.grads.offset[p] + cut.begin * size_bytes(DType::f32);
        range.first_chunk = layout.chunks + cut.begin / kChunk;
      }
    }
    layout.fields.push_back(method.state_layout(param));
    layout.pieces.push_back(unit);
    layout.chunks += chunks_in(param.shape.numel());
  }
}

/// Gives each range its weight fields and state fields, side by side, so that an update walks the
/// state pack from front to back. What begins with a turn lies in a pack of its own.
void place_state(
    BlockLayout& layout, const BlockSpec& spec, WeightFormat format, DType working, bool freezes) {
  std::vector<std::int64_t> lasting, turning;
  const auto each_field = [&](const auto& body) {
    for (OwnedRange& range : layout.ranges) {
      for (OwnedRange::Field& field : range.weight) {
        body(field, range.weight_in_turn);
      }
      for (OwnedRange::Field& field : range.fields) {
        body(field, range.fields_in_turn);
      }
    }
  };
  for (OwnedRange& range : layout.ranges) {
    const auto p = static_cast<std::size_t>(range.param);
    const ParamInfo& param = spec.params[p].info;
    const Turn turn = layout.turns[p];
    range.fields_in_turn = turn == Turn::taken;
    // Codes cannot be made twice of the same weights without moving them: they stay.
    range.weight_in_turn = freezes && turn != Turn::always && format != WeightFormat::int8;
    const auto place =
        [&](const StateLayout& fields, bool in_turn, std::vector<OwnedRange::Field>& to) {
          for (const StateField& field : fields) {
            const std::int64_t numel = field_numel(field, param.shape, range.begin, range.end);
            to.push_back({0, numel});
            (in_turn ? turning : lasting).push_back(numel * size_bytes(field.dtype));
          }
        };
    if (turn != Turn::frozen || !range.weight_in_turn) {
      place(weight_fields(format_of(format, param, working)), range.weight_in_turn, range.weight);
    }
    if (turn == Turn::always || turn == Turn::taken) {
      place(layout.fields[p], range.fields_in_turn, range.fields);
    }
  }
  const PackLayout state = pack_layout(lasting), turn_state = pack_layout(turning);
  auto next = state.offset.begin(), next_turning = turn_state.offset.begin();
  each_field([&](OwnedRange::Field& field, bool in_turn) {
    field.offset = in_turn ? *next_turning++ : *next++;
  });
  layout.state.state_bytes = state.size_bytes;
  layout.state.turn_state_bytes = turn_state.size_bytes;
}

/// Whether a field is kept once for the tensor, however that is cut.
bool is_uncut(const StateField& field) {
  return field.along.unit == Granularity::Unit::whole ||
         field.along.unit == Granularity::Unit::column;
}

void list_entries(
    BlockLayout& layout, const BlockSpec& spec, int block, WeightFormat format, DType working) {
  for (const OwnedRange& range : layout.ranges) {
    const auto p = static_cast<std::size_t>(range.param);
    const ParamInfo& param = spec.params[p].info;
    StateEntry entry{.tensor = param.name,
                     .state = "weight",
                     .dtype = working,
                     .shape = param.shape,
                     .begin = range.begin,
                     .end = range.end,
                     .numel = range.numel(),
                     .first_value = range.begin,
                     .pack = {PackClass::weights, block},
                     .offset = range.weight_offset};
    const WeightFormat kept = format_of(format, param, working);
    const bool frozen = layout.turns[p] == Turn::frozen && range.weight_in_turn;
    if (frozen || (kept != WeightFormat::bf16_master && kept != WeightFormat::int8)) {
      layout.state.entries.push_back(entry);
    }
    const auto add =
        [&](const StateLayout& fields, const std::vector<OwnedRange::Field>& places, bool in_turn) {
          entry.pack = {in_turn ? PackClass::turn_state : PackClass::state, block};
          for (std::size_t f = 0; f < places.size(); ++f) {
            if (places[f].numel > 0) {
              const bool all = is_uncut(fields[f]);  // then the first range has it for the others
              entry.begin = all ? 0 : range.begin;
              entry.end = all ? param.shape.numel() : range.end;
              entry.state = fields[f].name;
              entry.dtype = fields[f].dtype;
              entry.numel = places[f].numel;
              entry.first_value = field_numel(fields[f], param.shape, 0, range.begin);
              entry.offset = places[f].offset;
              layout.state.entries.push_back(entry);
            }
          }
        };
    add(weight_fields(kept), range.weight, range.weight_in_turn);
    add(layout.fields[p], range.fields, range.fields_in_turn);
  }
}

}  // namespace

BlockLayout lay_out(const Optimizer& method,
                    const BlockSpec& spec,
                    std::span<const ShardSpec> shards,
                    int rank,
                    int block,
                    WeightFormat format,
                    DType working,
                    std::span<const Turn> turns) {
  BlockLayout layout;
  layout.turns.assign(turns.begin(), turns.end());
  layout.state.weights = layout_of(spec, working);
  layout.state.grads = layout_of(spec, DType::f32);
  cut_params(layout, method, spec, shards, rank, working);
  place_state(layout, spec, format, working, method.freezes());
  list_entries(layout, spec, block, format, working);
  return layout;
}

}  // namespace strata::optim
