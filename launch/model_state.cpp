#include "launch/model_state.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/compress/balanced_factors.h"
#include "core/cpu/scratch.h"
#include "core/runtime.h"
#include "launch/stored_weights.h"
#include "optim/weight_update.h"

namespace strata::launch {

std::int64_t balance_factors_bytes(std::span<const BlockSpec> specs) {
  std::int64_t most = 0;
  for (const BlockSpec& spec : specs) {
    for (const FactorPair& pair : spec.factors) {
      const Shape& left = spec.params[static_cast<std::size_t>(pair.left)].info.shape;
      const Shape& right = spec.params[static_cast<std::size_t>(pair.right)].info.shape;
      most = std::max(
          most,
          cpu::aligned_bytes(left.numel() * size_bytes(DType::f32)) +
              cpu::aligned_bytes(right.numel() * size_bytes(DType::f32)) +
              cpu::aligned_bytes(balance_factors_workspace_bytes(left[0], right[1], right[0])));
    }
  }
  return most;
}

ModelState::ModelState(PackStore& store,
                       const optim::OptimizerUpdater& updater,
                       std::span<const BlockSpec> specs,
                       WeightPlaces places,
                       WeightFormat format,
                       DType dtype,
                       bool sharded)
    : store_(store),
      updater_(updater),
      specs_(specs),
      places_(std::move(places)),
      format_(format),
      dtype_(dtype),
      sharded_(sharded) {
  for (int block = 0; block < static_cast<int>(specs_.size()); ++block) {
    const Lease weights = store_.acquire({PackClass::weights, block});
    const Lease state = store_.acquire({PackClass::state, block});
    updater_.init_state(block, weights.bytes(), state.bytes());
  }
  begin_turns();
}

void ModelState::begin_turns() {
  for (const int block : updater_.in_turn()) {
    const Lease weights = store_.acquire({PackClass::weights, block});
    const Lease turn_state = store_.acquire({PackClass::turn_state, block});
    updater_.init_turn(block, weights.bytes(), turn_state.bytes());
  }
}

void ModelState::start(std::uint64_t seed,
                       const std::function<void(const models::ParamSink&)>& load) {
  const models::ParamSink sink = [&](const ParamSpec& spec,
                                     std::int64_t begin,
                                     std::span<const float> values) { write(spec, begin, values); };
  if (load) {
    return load(sink);
  }
  for_each_piece(specs_, [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
    models::init_param(spec, seed, begin, piece);
    sink(spec, begin, piece);
  });
}

/// State by the entries; working weights whole, since a rank has the precise ones of its shards
/// only.
void ModelState::restore(const checkpoint::Reader& reader, bool new_turns) {
  for (const StateEntry& entry : entries()) {
    if (new_turns && entry.pack.cls == PackClass::turn_state) {
      continue;
    }
    const Lease lease = store_.acquire(entry.pack);
    reader.read(entry.tensor,
                entry.state,
                entry.first_value,
                lease.bytes().subspan(static_cast<std::size_t>(entry.offset),
                                      static_cast<std::size_t>(entry.size_bytes())));
  }
  if (format_ != WeightFormat::f32 || sharded_) {  // else that was all of them
    for_each_piece(specs_, [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
      read_stored_weights(reader, spec.info.name, begin, piece);
      write_weights(store_, places_.at(spec.info.name), dtype_, begin, piece);
    });
  }
  if (new_turns) {
    begin_turns();
  }
}

void ModelState::balance_factors() {
  const Lease workspace = store_.acquire({PackClass::workspace});
  const std::vector<int> frozen = updater_.frozen();
  for (int block = 0; block < static_cast<int>(specs_.size()); ++block) {
    if (std::ranges::binary_search(frozen, block)) {
      continue;
    }
    const BlockSpec& spec = specs_[static_cast<std::size_t>(block)];
    for (const FactorPair& pair : spec.factors) {
      cpu::Scratch scratch(workspace.bytes());
      const auto read = [&](int param) {
        const ParamInfo& info = spec.params[static_cast<std::size_t>(param)].info;
        const Tensor values = scratch.tensor(DType::f32, info.shape);
        read_weights(store_, places_.at(info.name), dtype_, values);
        return values;
      };
      const Tensor left = read(pair.left), right = read(pair.right);
      const std::int64_t room =
          balance_factors_workspace_bytes(left.shape()[0], right.shape()[1], right.shape()[0]);
      strata::balance_factors(left, right, scratch.bytes(room), compute_stream(DeviceKind::cpu));
      for (const auto& [param, values] : {std::pair{pair.left, left}, {pair.right, right}}) {
        const ParamSpec& of = spec.params[static_cast<std::size_t>(param)];
        write(of, 0, {values.data<float>(), static_cast<std::size_t>(values.numel())});
        updater_.forget(block, of.info.id, store_.acquire({PackClass::state, block}).bytes());
      }
    }
  }
}

StateDict ModelState::entries() const {
  StateDict all;
  for (int block = 0; block < static_cast<int>(specs_.size()); ++block) {
    const StateDict& of_block = updater_.block(block).entries;
    all.insert(all.end(), of_block.begin(), of_block.end());
  }
  return all;
}

/// What is owned in its format, and the working copy of all of it: a rank computes with the
/// weights that their owners keep.
void ModelState::write(const ParamSpec& spec, std::int64_t begin, std::span<const float> values) {
  const WeightPlace& place = places_.at(spec.info.name);
  const WeightFormat format = optim::format_of(format_, spec.info, dtype_);
  if (format == WeightFormat::int8) {
    std::vector<float> kept(values.begin(), values.end());
    optim::round_to_int8(kept);
    write_weights(store_, place, dtype_, begin, kept);
  } else {
    write_weights(store_, place, dtype_, begin, values);
  }
  const Lease weights = store_.acquire({PackClass::weights, place.block});
  const Lease state = store_.acquire({PackClass::state, place.block});
  const std::vector<int> in_turn = updater_.in_turn();
  const Lease turn_state = std::ranges::binary_search(in_turn, place.block)
                               ? store_.acquire({PackClass::turn_state, place.block})
                               : Lease();
  updater_.start_weights(
      place.block, spec.info.id, begin, values, weights.bytes(), state.bytes(), turn_state.bytes());
}

}  // namespace strata::launch
