#pragma once
#include <cstdint>
#include <vector>

#include "core/batch.h"
#include "core/philox.h"
#include "launch/assemble.h"

namespace strata::launch {

/// The G micro-batches of a step, of random tokens.
inline std::vector<MicroBatch> random_batches(const Computation& c) {
  std::vector<MicroBatch> batches(static_cast<std::size_t>(c.G));
  const RandomKey key{1, RandomUse::sampling, 0, 0};
  std::uint64_t drawn = 0;
  for (MicroBatch& batch : batches) {
    for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
      *t = Tensor::zeros(DType::i32, {c.B, c.T});
    }
    for (std::int64_t i = 0; i < c.B * c.T; ++i) {
      const auto words = key.words(drawn++);
      const auto V = static_cast<std::uint32_t>(c.model.V);
      batch.tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[0] % V);
      batch.targets.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[1] % V);
      batch.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % c.T);
    }
  }
  return batches;
}

}  // namespace strata::launch
