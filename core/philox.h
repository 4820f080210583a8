#pragma once
#include <array>
#include <cstdint>

#include "core/hd.h"

namespace strata {

/// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011): four random
/// words as a pure function of a 128-bit counter and a 64-bit key.
STRATA_HD inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                     std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * counter[0];
    const std::uint64_t p1 = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(p0)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// What a random number is for; part of every key, so that two uses never share a stream.
enum class RandomUse : std::uint32_t {
  init = 1,
  dropout,
  sampling,
  rounding,        // of weights
  state_rounding,  // of optimizer state
  subspace,
  turns,  // of blocks or tensors: a = round or period
  generation,
  grammar
};

/// Random words addressed by (seed, use, a, b, c): never by rank, micro-batch or call order
/// (DESIGN 5.6). Parameters: a = step or refresh, b = tensor id, c = element / 4. Activations: a =
/// step, b = site, c = (global sample, position, channel / 4) folded by the op.
struct RandomKey {
  std::uint64_t seed = 0;
  RandomUse use = RandomUse::init;
  std::uint64_t a = 0, b = 0;

  /// What the draws of one key share: the Philox key, then the upper half of the counter. b and a
  /// enter by one Philox round trip, so that all 64 bits of each count.
  STRATA_HD std::array<std::uint32_t, 4> address() const {
    return philox(
        {static_cast<std::uint32_t>(a),
         static_cast<std::uint32_t>(a >> 32),
         static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(b >> 32)},
        {static_cast<std::uint32_t>(seed),
         static_cast<std::uint32_t>(seed >> 32) ^ (static_cast<std::uint32_t>(use) << 24)});
  }
  STRATA_HD std::array<std::uint32_t, 4> words(std::uint64_t c) const {
    const auto k = address();
    return philox({static_cast<std::uint32_t>(c), static_cast<std::uint32_t>(c >> 32), k[2], k[3]},
                  {k[0], k[1]});
  }
};

/// Uniform in [0, 1), 24 bits.
STRATA_HD inline float uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace strata
