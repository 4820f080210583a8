#include "core/random_words.h"

#include <algorithm>

#include "core/cpu/simd.h"

namespace strata {
namespace {

constexpr int kLanes = 16;

/// RandomKey::words() of 16 draws, the rounds of all of them side by side.
void sixteen_draws(std::uint32_t (&words)[4][kLanes],
                   const std::array<std::uint32_t, 4>& address,
                   std::uint64_t first) {
  for (std::uint32_t l = 0; l < kLanes; ++l) {
    const std::uint64_t c = first + l;
    words[0][l] = static_cast<std::uint32_t>(c);
    words[1][l] = static_cast<std::uint32_t>(c >> 32);
    words[2][l] = address[2];
    words[3][l] = address[3];
  }
  std::uint32_t k0 = address[0], k1 = address[1];
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      const std::uint64_t p0 = 0xD2511F53ull * words[0][l];
      const std::uint64_t p1 = 0xCD9E8D57ull * words[2][l];
      words[0][l] = static_cast<std::uint32_t>(p1 >> 32) ^ words[1][l] ^ k0;
      words[1][l] = static_cast<std::uint32_t>(p1);
      words[2][l] = static_cast<std::uint32_t>(p0 >> 32) ^ words[3][l] ^ k1;
      words[3][l] = static_cast<std::uint32_t>(p0);
    }
  }
}

}  // namespace

void fill_words(std::uint32_t* to, const RandomKey& key, std::uint64_t first, std::int64_t draws) {
  const std::array<std::uint32_t, 4> address = key.address();
  cpu::simd([&] {
    for (std::int64_t d = 0; d < draws; d += kLanes) {
      std::uint32_t words[4][kLanes];
      sixteen_draws(words, address, first + static_cast<std::uint64_t>(d));
      const std::int64_t count = std::min<std::int64_t>(kLanes, draws - d);
      for (std::int64_t l = 0; l < count; ++l) {
        for (int w = 0; w < 4; ++w) {
          to[4 * (d + l) + w] = words[w][l];
        }
      }
    }
  });
}

}  // namespace strata
