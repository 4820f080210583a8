#pragma once
// What codes are written in: one formula for a lane of a float (devices, single values) and for the
// 16 lanes of core/cpu/wide_lane.h. A comparison gives something that select() takes.
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/hd.h"
#include "core/math.h"

namespace strata {

/// Values that are looked up by the low bits of an index.
template <int Entries, class T = float>
struct alignas(64) LaneTable {
  static_assert((Entries & (Entries - 1)) == 0);
  T values[Entries];
};

/// The integers beside the floats F.
template <class F>
struct LaneTraits;
template <>
struct LaneTraits<float> {
  using Int = std::int32_t;
};
template <class F>
using LaneInt = typename LaneTraits<F>::Int;

STRATA_HD inline float select(bool which, float yes, float no) {
  return which ? yes : no;
}
STRATA_HD inline std::int32_t select(bool which, std::int32_t yes, std::int32_t no) {
  return which ? yes : no;
}
STRATA_HD inline double select(bool which, double yes, double no) {
  return which ? yes : no;
}
STRATA_HD inline float sqrt_(float x) {
  return std::sqrt(x);
}
STRATA_HD inline double sqrt_(double x) {
  return std::sqrt(x);
}
STRATA_HD inline std::int32_t bits_of(float x) {
  return std::bit_cast<std::int32_t>(x);
}
STRATA_HD inline float float_of(std::int32_t bits) {
  return std::bit_cast<float>(bits);
}
STRATA_HD inline float float_from(std::int32_t x) {
  return static_cast<float>(x);
}
/// Towards zero; |x| < 2^31.
STRATA_HD inline std::int32_t truncated(float x) {
  return static_cast<std::int32_t>(x);
}
/// The nearest integer; |x| < 2^22.
STRATA_HD inline float rounded(float x) {
  return (x + 12582912.f) - 12582912.f;  // 1.5 * 2^23
}
/// floor(log2 |x|) of a normal float; -2^14 of a smaller one.
STRATA_HD inline float exponent_of(float x) {
  const std::int32_t biased = (bits_of(x) >> 23) & 255;
  return select(biased == 0, -0x1p14f, static_cast<float>(biased - 127));
}
STRATA_HD inline std::int32_t least_of(std::int32_t a, std::int32_t b) {
  return a < b ? a : b;
}
STRATA_HD inline std::int32_t most_of(std::int32_t a, std::int32_t b) {
  return a < b ? b : a;
}
/// x 2^floor(n), rounded once, for x in [1/2, 4) and |n| < 2^22 with a result below 2^126.
STRATA_HD inline float times_power(float x, float n) {
  const std::int32_t whole = truncated(n), below = whole - (float_from(whole) > n ? 1 : 0);
  const std::int32_t power = most_of(below, -160), half = power >> 1;
  return x * float_of((half + 127) << 23) * float_of((power - half + 127) << 23);
}
STRATA_HD inline float most_of(float a, float b) {
  return a < b ? b : a;
}
/// Each value of a table times what all lanes hold; zeros have no sign.
STRATA_HD inline LaneTable<16> product(const LaneTable<16>& table, float by) {
  LaneTable<16> result;
  for (int i = 0; i < 16; ++i) {
    result.values[i] = table.values[i] * by + 0.f;
  }
  return result;
}
/// The greater magnitude.
STRATA_HD inline float greater_size(float a, float b) {
  return float_of(most_of(bits_of(a) & 0x7fffffff, bits_of(b) & 0x7fffffff));
}
template <int Entries, class T>
STRATA_HD inline T pick(const LaneTable<Entries, T>& table, std::int32_t index) {
  return table.values[index & (Entries - 1)];
}

}  // namespace strata
