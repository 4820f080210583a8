#include "core/random_words.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/cpu/simd.h"

namespace strata {
namespace {

constexpr std::int64_t kLanes = 16;

/// RandomKey::words() of 16 draws, the rounds of all of them side by side: one word in 64 bits,
/// whose upper half is never looked at, so that products need no shuffling.
void sixteen_draws(std::uint64_t (&pairs)[2 * kLanes],
                   const std::array<std::uint32_t, 4>& address,
                   std::uint64_t first) {
  constexpr std::uint64_t kLow = 0xffffffff;
#pragma omp simd
  for (std::int64_t l = 0; l < kLanes; ++l) {
    const std::uint64_t counter = first + static_cast<std::uint64_t>(l);
    std::uint64_t x0 = counter, x1 = counter >> 32, x2 = address[2], x3 = address[3];
    std::uint32_t k0 = address[0], k1 = address[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = 0xD2511F53ull * (x0 & kLow);
      const std::uint64_t p1 = 0xCD9E8D57ull * (x2 & kLow);
      x0 = (p1 >> 32) ^ x1 ^ k0;
      x1 = p1;
      x2 = (p0 >> 32) ^ x3 ^ k1;
      x3 = p0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    pairs[2 * l] = (x0 & kLow) | x1 << 32;
    pairs[2 * l + 1] = (x2 & kLow) | x3 << 32;
  }
}

}  // namespace

void fill_words(std::uint32_t* to, const RandomKey& key, std::uint64_t first, std::int64_t draws) {
  static_assert(std::endian::native == std::endian::little, "the low half of a pair is first");
  const std::array<std::uint32_t, 4> address = key.address();
  cpu::simd([&] {
    for (std::int64_t d = 0; d < draws; d += kLanes) {
      std::uint64_t pairs[2 * kLanes];
      sixteen_draws(pairs, address, first + static_cast<std::uint64_t>(d));
      const std::int64_t count = std::min(kLanes, draws - d);
      std::memcpy(to + 4 * d, pairs, static_cast<std::size_t>(count) * 16);
    }
  });
}

}  // namespace strata
