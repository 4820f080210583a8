#include "launch/model_state.h"

#include <algorithm>
#include <utility>

namespace strata::launch {

ModelState::ModelState(PackStore& store,
                       const optim::OptimizerUpdater& updater,
                       std::span<const BlockSpec> specs,
                       WeightPlaces places,
                       DType dtype,
                       bool sharded)
    : store_(store),
      updater_(updater),
      specs_(specs),
      places_(std::move(places)),
      dtype_(dtype),
      sharded_(sharded) {
  for (int block = 0; block < static_cast<int>(specs_.size()); ++block) {
    const Lease weights = store_.acquire({PackClass::weights, block});
    const Lease state = store_.acquire({PackClass::state, block});
    updater_.init_state(block, weights.bytes(), state.bytes());
  }
}

void ModelState::start(std::uint64_t seed,
                       const std::function<void(const models::ParamSink&)>& load) {
  const models::ParamSink sink =
      [&](const ParamSpec& spec, std::int64_t begin, std::span<const float> values) {
        write_weights(store_, places_.at(spec.info.name), dtype_, begin, values);
        write_master(spec, begin, values);
      };
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
void ModelState::restore(const StateReader& read) {
  for (const StateEntry& entry : entries()) {
    const Lease lease = store_.acquire(entry.pack);
    read(entry.tensor,
         entry.state,
         entry.begin,
         lease.bytes().subspan(static_cast<std::size_t>(entry.offset),
                               static_cast<std::size_t>(entry.size_bytes())));
  }
  if (dtype_ == DType::f32 && !sharded_) {
    return;  // that was all of them
  }
  for_each_piece(specs_, [&](const ParamSpec& spec, std::int64_t begin, std::span<float> piece) {
    read(spec.info.name, "weight", begin, std::as_writable_bytes(piece));
    write_weights(store_, places_.at(spec.info.name), dtype_, begin, piece);
  });
}

StateDict ModelState::entries() const {
  StateDict all;
  for (int block = 0; block < static_cast<int>(specs_.size()); ++block) {
    const StateDict& of_block = updater_.block(block).entries;
    all.insert(all.end(), of_block.begin(), of_block.end());
  }
  return all;
}

/// The precise copy of what this rank owns of a weight, when it is not the working one.
void ModelState::write_master(const ParamSpec& spec,
                              std::int64_t begin,
                              std::span<const float> values) {
  const std::int64_t end = begin + static_cast<std::int64_t>(values.size());
  for (const StateEntry& entry : updater_.block(places_.at(spec.info.name).block).entries) {
    if (entry.pack.cls != PackClass::state || entry.state != "weight" ||
        entry.tensor != spec.info.name) {
      continue;
    }
    const Lease state = store_.acquire(entry.pack);
    auto* const to = reinterpret_cast<float*>(state.bytes().data() + entry.offset);
    for (std::int64_t i = std::max(begin, entry.begin); i < std::min(end, entry.end); ++i) {
      to[i - entry.begin] = values[static_cast<std::size_t>(i - begin)];
    }
  }
}

}  // namespace strata::launch
