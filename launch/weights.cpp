#include "launch/weights.h"

#include <algorithm>
#include <vector>

#include <xxhash.h>

#include "core/bf16.h"

namespace strata::launch {

WeightPlaces weight_places(std::span<const std::unique_ptr<Block>> blocks,
                           const models::GraphRunner& runner) {
  WeightPlaces places;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto& params = blocks[b]->spec().params;
    for (std::size_t p = 0; p < params.size(); ++p) {
      const int block = static_cast<int>(b);
      places[params[p].info.name] = {block, runner.weights_layout(block).offset[p]};
    }
  }
  return places;
}

void write_weights(std::span<std::byte> pack,
                   const WeightPlace& place,
                   DType dtype,
                   std::int64_t begin,
                   std::span<const float> values) {
  std::byte* to = pack.data() + place.offset + begin * size_bytes(dtype);
  if (dtype == DType::f32) {
    std::copy(values.begin(), values.end(), reinterpret_cast<float*>(to));
  } else {
    std::transform(values.begin(), values.end(), reinterpret_cast<bf16*>(to), to_bf16);
  }
}

void read_weights(std::span<const std::byte> pack,
                  const WeightPlace& place,
                  DType dtype,
                  const Tensor& to) {
  const std::byte* const from = pack.data() + place.offset;
  float* const values = to.data<float>();
  if (dtype == DType::f32) {
    const auto* const precise = reinterpret_cast<const float*>(from);
    std::copy(precise, precise + to.numel(), values);
  } else {
    const auto* const rounded = reinterpret_cast<const bf16*>(from);
    std::transform(rounded, rounded + to.numel(), values, to_float);
  }
}

void for_each_piece(
    const BlockSpec& spec,
    const std::function<void(const ParamSpec&, std::int64_t begin, std::span<float>)>& body) {
  constexpr std::int64_t kPiece = 1 << 20;
  std::vector<float> values;
  for (const ParamSpec& param : spec.params) {
    const std::int64_t numel = param.info.shape.numel();
    for (std::int64_t begin = 0; begin < numel; begin += kPiece) {
      values.resize(static_cast<std::size_t>(std::min(kPiece, numel - begin)));
      body(param, begin, values);
    }
  }
}

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t before) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), before);
}

}  // namespace strata::launch
