#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "core/for_each.h"
#include "core/philox.h"
#include "core/random_words.h"

namespace strata::optim {

/// Elements that an update works on at a time, in a cache of the first level: a divisor of the
/// chunk at which tensors are cut and a multiple of every block that is coded together.
inline constexpr std::int64_t kTile = 1024;
static_assert(kChunk % kTile == 0);

/// 1, 0 or -1.
template <class T>
STRATA_HD inline T sign(T x) {
  return x > 0 ? T(1) : (x < 0 ? T(-1) : T(0));
}

/// Calls body(begin, n) for the tiles of [0, numel), in any order on any thread of the team.
template <class Body>
void for_each_tile(std::int64_t numel, const Body& body) {
  parallel_for(numel, kChunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; at += kTile) {
      body(at, end - at < kTile ? end - at : kTile);
    }
  });
}

/// Has n values that are needed soon fetched into the second-level cache: what processors fetch
/// ahead by themselves ends where a page does, as tiles do. The values need not exist.
inline void fetch_ahead(const float* values, std::int64_t n) {
  constexpr std::int64_t kLine = 16;
  for (std::int64_t i = 0; i < n; i += kLine) {
    __builtin_prefetch(values + i, 0, 2);
  }
}

/// 16 random bits for each element of a tile that starts at `first` of the whole tensor, a multiple
/// of 8.
using TileNoise = std::array<std::uint16_t, kTile>;
inline void draw_noise(const RandomKey& key, std::int64_t first, std::int64_t n, TileNoise& noise) {
  static_assert(std::endian::native == std::endian::little, "the low half of a word is first");
  std::array<std::uint32_t, kTile / 2> words;
  fill_words(words.data(), key, static_cast<std::uint64_t>(first / 8), (n + 7) / 8);
  std::memcpy(noise.data(), words.data(), static_cast<std::size_t>((n + 7) / 8) * 16);
}

}  // namespace strata::optim
