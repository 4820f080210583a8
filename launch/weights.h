#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "core/block.h"
#include "core/pack.h"
#include "models/hf.h"
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

/// Every parameter at its value of step 0 from (seed, tensor, element), piece by piece in order.
void send_initial(std::span<const std::unique_ptr<Block>> blocks,
                  std::uint64_t seed,
                  const models::ParamSink& sink);

/// Elements [begin, begin + values.size()) of a parameter into its weights pack, rounded to
/// `dtype`.
void write_weights(PackStore& store,
                   const WeightPlace& place,
                   DType dtype,
                   std::int64_t begin,
                   std::span<const float> values);

}  // namespace strata::launch
