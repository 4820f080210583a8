#include "launch/weights.h"

#include <algorithm>

#include "core/bf16.h"
#include "models/model.h"

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

void send_initial(std::span<const std::unique_ptr<Block>> blocks,
                  std::uint64_t seed,
                  const models::ParamSink& sink) {
  constexpr std::int64_t kPiece = 1 << 20;
  std::vector<float> values;
  for (const auto& block : blocks) {
    for (const ParamSpec& spec : block->spec().params) {
      const std::int64_t numel = spec.info.shape.numel();
      for (std::int64_t begin = 0; begin < numel; begin += kPiece) {
        values.resize(static_cast<std::size_t>(std::min(kPiece, numel - begin)));
        models::init_param(spec, seed, begin, values);
        sink(spec, begin, values);
      }
    }
  }
}

void write_weights(PackStore& store,
                   const WeightPlace& place,
                   DType dtype,
                   std::int64_t begin,
                   std::span<const float> values) {
  const Lease lease = store.acquire({PackClass::weights, place.block});
  std::byte* to = lease.bytes().data() + place.offset + begin * size_bytes(dtype);
  if (dtype == DType::f32) {
    std::copy(values.begin(), values.end(), reinterpret_cast<float*>(to));
  } else {
    std::transform(values.begin(), values.end(), reinterpret_cast<bf16*>(to), to_bf16);
  }
}

}  // namespace strata::launch
