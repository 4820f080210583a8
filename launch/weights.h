#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "core/block.h"
#include "core/pack.h"
#include "models/runner.h"

namespace strata::launch {

/// Where a parameter's working weight lies.
struct WeightPlace {
  int block = 0;
  std::int64_t offset = 0;
};
using WeightPlaces = std::map<std::string, WeightPlace>;  // by the parameter's name
WeightPlaces weight_places(std::span<const std::unique_ptr<Block>> blocks,
                           const models::GraphRunner& runner);

/// Elements [begin, begin + values.size()) of a parameter into its weights pack, rounded to
/// `dtype`.
void write_weights(std::span<std::byte> pack,
                   const WeightPlace& place,
                   DType dtype,
                   std::int64_t begin,
                   std::span<const float> values);

/// The whole of a parameter as f32.
void read_weights(std::span<const std::byte> pack,
                  const WeightPlace& place,
                  DType dtype,
                  const Tensor& to);

/// Calls `body` for every parameter of a block in turn, piece by piece, with room for the piece's
/// values.
void for_each_piece(
    const BlockSpec& spec,
    const std::function<void(const ParamSpec&, std::int64_t begin, std::span<float>)>& body);

/// A hash of bytes that goes on from an earlier one.
std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t before);

}  // namespace strata::launch
