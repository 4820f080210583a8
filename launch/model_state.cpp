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
      sharded_(sharded) {}

void ModelState::begin_turns() {
  for (const int block : updater_.in_turn()) {
    const Lease weights = store_.acquire({PackClass::weights, block});
    const Lease turn_state = store_.acquire({PackClass::turn_state, block});
    updater_.init_turn(block, weights.bytes(), turn_state.bytes());
  }
}

void ModelState::start_from(std::uint64_t seed, models::ParamSource weights) {
  seed_ = seed;
  weights_ = std::move(weights);
  reader_ = nullptr;
}

void ModelState::restore_from(const checkpoint::Reader& reader, bool new_turns) {
  reader_ = &reader;
  new_turns_ = new_turns;
}

ModelState::Packs ModelState::packs_of(int block, const Held& held) const {
  const PackKey turn_state{PackClass::turn_state, block};
  return {.weights = held[{PackClass::weights, block}],
          .state = held[{PackClass::state, block}],
          .turn_state = held.contains(turn_state) ? held[turn_state] : std::span<std::byte>()};
}

void ModelState::load(const Instruction& instruction, const Held& held) {
  const int block = instruction.block;
  const Packs packs = packs_of(block, held);
  std::ranges::fill(packs.weights, std::byte{0});  // what lies between tensors is stored too
  updater_.init_state(block, packs.weights, packs.state);
  if (!packs.turn_state.empty()) {
    updater_.init_turn(block, packs.weights, packs.turn_state);
  }
  reader_ == nullptr ? start(block, packs) : restore(block, packs);
}

void ModelState::start(int block, const Packs& packs) const {
  for_each_piece(specs_[static_cast<std::size_t>(block)],
                 [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
                   weights_ ? weights_(spec, begin, piece)
                            : models::init_param(spec, seed_, begin, piece);
                   write(spec, begin, piece, packs);
                 });
}

/// State by the entries; working weights whole, since a rank has the precise ones of its shards
/// only.
void ModelState::restore(int block, const Packs& packs) const {
  for (const StateEntry& entry : updater_.block(block).entries) {
    const bool of_turn = entry.pack.cls == PackClass::turn_state;
    if (new_turns_ && of_turn) {
      continue;
    }
    const std::span<std::byte> pack = of_turn                              ? packs.turn_state
                                      : entry.pack.cls == PackClass::state ? packs.state
                                                                           : packs.weights;
    reader_->read(entry.tensor,
                  entry.state,
                  entry.first_value,
                  pack.subspan(static_cast<std::size_t>(entry.offset),
                               static_cast<std::size_t>(entry.size_bytes())));
  }
  if (format_ != WeightFormat::f32 || sharded_) {  // else that was all of them
    for_each_piece(specs_[static_cast<std::size_t>(block)],
                   [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
                     read_stored_weights(*reader_, spec.info.name, begin, piece);
                     write_weights(packs.weights, places_.at(spec.info.name), dtype_, begin, piece);
                   });
  }
  if (new_turns_ && !packs.turn_state.empty()) {
    updater_.init_turn(block, packs.weights, packs.turn_state);
  }
}

void ModelState::balance_factors() {
  const Lease workspace = store_.acquire({PackClass::workspace});
  const std::vector<int> frozen = updater_.frozen(), in_turn = updater_.in_turn();
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
        const Lease pack = store_.acquire({PackClass::weights, block});
        read_weights(pack.bytes(), places_.at(info.name), dtype_, values);
        return values;
      };
      const Tensor left = read(pair.left), right = read(pair.right);
      const std::int64_t room =
          balance_factors_workspace_bytes(left.shape()[0], right.shape()[1], right.shape()[0]);
      strata::balance_factors(left, right, scratch.bytes(room), compute_stream(DeviceKind::cpu));
      const Lease weights = store_.acquire({PackClass::weights, block});
      const Lease state = store_.acquire({PackClass::state, block});
      const Lease turn_state = std::ranges::binary_search(in_turn, block)
                                   ? store_.acquire({PackClass::turn_state, block})
                                   : Lease();
      const Packs packs{weights.bytes(), state.bytes(), turn_state.bytes()};
      for (const auto& [param, values] : {std::pair{pair.left, left}, {pair.right, right}}) {
        const ParamSpec& of = spec.params[static_cast<std::size_t>(param)];
        write(of, 0, {values.data<float>(), static_cast<std::size_t>(values.numel())}, packs);
        updater_.forget(block, of.info.id, packs.state);
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
void ModelState::write(const ParamSpec& spec,
                       std::int64_t begin,
                       std::span<const float> values,
                       const Packs& packs) const {
  const WeightPlace& place = places_.at(spec.info.name);
  const WeightFormat format = optim::format_of(format_, spec.info, dtype_);
  if (format == WeightFormat::int8) {
    std::vector<float> kept(values.begin(), values.end());
    optim::round_to_int8(kept);
    write_weights(packs.weights, place, dtype_, begin, kept);
  } else {
    write_weights(packs.weights, place, dtype_, begin, values);
  }
  updater_.start_weights(
      place.block, spec.info.id, begin, values, packs.weights, packs.state, packs.turn_state);
}

}  // namespace strata::launch
