#pragma once
#include <bit>
#include <cstdint>

#include "core/hd.h"

namespace strata {

/// bfloat16 storage: the upper half of a float. Arithmetic happens in float.
struct bf16 {
  std::uint16_t bits = 0;
};

STRATA_HD inline float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

/// Round to nearest, ties to even; NaN stays NaN (quiet), infinities stay.
STRATA_HD inline bf16 to_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (u >> 16) | 0x40u;
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<std::uint16_t>(nan ? quiet : rounded)};
}

/// Stochastic rounding by addition: up with the probability of what is cut off when `random` is
/// uniform in [0, 2^16). NaN stays NaN (quiet), infinities stay, no finite value becomes infinite.
STRATA_HD inline bf16 to_bf16_stochastic(float x, std::uint32_t random) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = u & 0x7fffffffu, sign = u & 0x80000000u;
  const std::uint32_t rounded = magnitude + (random & 0xffffu);
  const std::uint32_t finite = rounded < 0x7f7f0000u ? rounded : 0x7f7f0000u;
  const std::uint32_t special = magnitude > 0x7f800000u ? (magnitude | 0x400000u) : magnitude;
  const std::uint32_t kept = magnitude < 0x7f800000u ? finite : special;
  return {static_cast<std::uint16_t>((kept | sign) >> 16)};
}

// One spelling for kernels that are templates over the storage type.
STRATA_HD inline float load(float x) {
  return x;
}
STRATA_HD inline float load(bf16 x) {
  return to_float(x);
}
STRATA_HD inline void store(float& to, float x) {
  to = x;
}
STRATA_HD inline void store(bf16& to, float x) {
  to = to_bf16(x);
}

}  // namespace strata
