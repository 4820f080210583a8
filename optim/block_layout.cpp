#include "optim/block_layout.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/error.h"
#include "core/for_each.h"

namespace strata::optim {
namespace {

bool may_cut(const Granularity& granularity, const Shape& shape, std::int64_t at) {
  switch (granularity.unit) {
    case Granularity::Unit::element:
      return true;
    case Granularity::Unit::block:
      return at % granularity.block == 0;
    case Granularity::Unit::row:
      return at % shape.back() == 0;
    case Granularity::Unit::column:  // no flat range holds whole columns
    case Granularity::Unit::whole:
      return false;
  }
  return false;
}

/// The shards of one parameter, checked: in order, without gap or overlap, cut where it is allowed.
std::span<const ShardSpec> shards_of(const ParamInfo& param,
                                     const Granularity& granularity,
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
    const bool inside = covered > 0 && covered < numel;
    if (inside && (covered % kChunk != 0 || !may_cut(granularity, param.shape, covered))) {
      throw Error(Errc::internal,
                  fmt::format("shards: '{}' {} may not be cut at element {}; cut at multiples of "
                              "{} that the method allows",
                              param.name,
                              to_string(param.shape),
                              covered,
                              kChunk));
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
    const std::span<const ShardSpec> cuts =
        shards.empty() ? std::span(&whole, 1) : shards_of(param, method.granularity(param), shards);
    for (std::size_t c = 0; c < cuts.size(); ++c) {
      const ShardSpec& cut = cuts[c];
      if (cut.owner == rank && cut.end > cut.begin) {
        OwnedRange& range = layout.ranges.emplace_back();
        range.param = static_cast<int>(p);
        range.begin = cut.begin;
        range.end = cut.end;
        range.weight_offset = layout.state.weights.offset[p] + cut.begin * size_bytes(weight_dtype);
        range.grad_offset = layout.state.grads.offset[p] + cut.begin * size_bytes(DType::f32);
        range.first_chunk = layout.chunks + cut.begin / kChunk;
        range.shard = static_cast<int>(c);
      }
    }
    layout.fields.push_back(method.state_layout(param));
    layout.shards.push_back(static_cast<int>(cuts.size()));
    layout.chunks += chunks_in(param.shape.numel());
  }
}

/// Gives each range its master and fields, side by side, so that an update walks the state pack
/// from front to back.
void place_state(BlockLayout& layout, const BlockSpec& spec, WeightFormat format) {
  std::vector<std::int64_t> bytes;
  for (OwnedRange& range : layout.ranges) {
    const auto p = static_cast<std::size_t>(range.param);
    if (format == WeightFormat::bf16_master) {
      bytes.push_back(range.numel() * size_bytes(DType::f32));
    }
    for (const StateField& field : layout.fields[p]) {
      const std::int64_t numel =
          field_numel(field, spec.params[p].info.shape, range.begin, range.end);
      range.fields.push_back({0, numel});
      bytes.push_back(numel * size_bytes(field.dtype));
    }
  }
  const PackLayout pack = pack_layout(bytes);
  auto next = pack.offset.begin();
  for (OwnedRange& range : layout.ranges) {
    if (format == WeightFormat::bf16_master) {
      range.master_offset = *next++;
    }
    for (OwnedRange::Field& field : range.fields) {
      field.offset = *next++;
    }
  }
  layout.state.state_bytes = pack.size_bytes;
}

void list_entries(BlockLayout& layout, const BlockSpec& spec, int block) {
  for (const OwnedRange& range : layout.ranges) {
    const auto p = static_cast<std::size_t>(range.param);
    const ParamInfo& param = spec.params[p].info;
    const bool master = range.master_offset >= 0;
    StateEntry entry{.tensor = param.name,
                     .state = "weight",
                     .dtype = DType::f32,
                     .shape = param.shape,
                     .begin = range.begin,
                     .end = range.end,
                     .numel = range.numel(),
                     .pack = {master ? PackClass::state : PackClass::weights, block},
                     .offset = master ? range.master_offset : range.weight_offset};
    layout.state.entries.push_back(entry);
    entry.pack = {PackClass::state, block};
    for (std::size_t f = 0; f < range.fields.size(); ++f) {
      const StateField& field = layout.fields[p][f];
      STRATA_ASSERT(field.name != "weight");
      if (range.fields[f].numel > 0) {
        entry.state = field.name;
        entry.dtype = field.dtype;
        entry.numel = range.fields[f].numel;
        entry.offset = range.fields[f].offset;
        layout.state.entries.push_back(entry);
      }
    }
  }
}

}  // namespace

BlockLayout lay_out(const Optimizer& method,
                    const BlockSpec& spec,
                    std::span<const ShardSpec> shards,
                    int rank,
                    int block,
                    WeightFormat format) {
  const DType weight_dtype = format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  BlockLayout layout;
  layout.state.weights = layout_of(spec, weight_dtype);
  layout.state.grads = layout_of(spec, DType::f32);
  cut_params(layout, method, spec, shards, rank, weight_dtype);
  place_state(layout, spec, format);
  list_entries(layout, spec, block);
  return layout;
}

}  // namespace strata::optim
