#pragma once
// The vocabulary of core/lane.h on 16 lanes. For bodies of cpu::run_avx512 only, which inline it:
// every function here is compiled for that level, the formulas that call it need not be.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

#include "core/cpu/simd.h"
#include "core/lane.h"

namespace strata::cpu {

#define STRATA_WIDE [[gnu::target(STRATA_TARGET_AVX512)]]

// Values of these types never cross a call: all of it is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

struct WideMask {
  __mmask16 bits;
};
using Floats16 = float __attribute__((vector_size(64)));
using Ints16 = std::int32_t __attribute__((vector_size(64)));
struct WideInt {
  Ints16 v;
  WideInt() = default;
  STRATA_WIDE WideInt(Ints16 x) : v(x) {}
  STRATA_WIDE WideInt(std::int32_t x) : v(Ints16{} + x) {}
};
struct WideFloat {
  Floats16 v;
  WideFloat() = default;
  STRATA_WIDE WideFloat(Floats16 x) : v(x) {}
  STRATA_WIDE WideFloat(float x) : v(x - Floats16{}) {}
};

STRATA_WIDE inline WideFloat operator+(WideFloat a, WideFloat b) {
  return a.v + b.v;
}
STRATA_WIDE inline WideFloat operator-(WideFloat a, WideFloat b) {
  return a.v - b.v;
}
STRATA_WIDE inline WideFloat operator-(WideFloat x) {
  return -x.v;
}
STRATA_WIDE inline WideFloat operator*(WideFloat a, WideFloat b) {
  return a.v * b.v;
}
STRATA_WIDE inline WideFloat operator/(WideFloat a, WideFloat b) {
  return a.v / b.v;
}
STRATA_WIDE inline WideFloat sqrt_(WideFloat x) {
  return Floats16(_mm512_maskz_sqrt_ps(0xffff, x.v));
}
STRATA_WIDE inline WideFloat fma_(WideFloat a, WideFloat b, WideFloat c) {
  return _mm512_fmadd_ps(a.v, b.v, c.v);
}
STRATA_WIDE inline WideInt operator+(WideInt a, WideInt b) {
  return a.v + b.v;
}
STRATA_WIDE inline WideInt operator-(WideInt a, WideInt b) {
  return a.v - b.v;
}
STRATA_WIDE inline WideInt operator&(WideInt a, WideInt b) {
  return a.v & b.v;
}
STRATA_WIDE inline WideInt operator|(WideInt a, WideInt b) {
  return a.v | b.v;
}
STRATA_WIDE inline WideInt operator~(WideInt x) {
  return ~x.v;
}
STRATA_WIDE inline WideInt operator>>(WideInt a, int count) {
  return a.v >> count;
}
STRATA_WIDE inline WideInt operator<<(WideInt a, int count) {
  return a.v << count;
}
STRATA_WIDE inline WideMask operator>=(WideInt a, WideInt b) {
  return {_mm512_cmpge_epi32_mask(reinterpret_cast<__m512i>(a.v), reinterpret_cast<__m512i>(b.v))};
}
STRATA_WIDE inline WideMask operator<(WideInt a, WideInt b) {
  return {_mm512_cmplt_epi32_mask(reinterpret_cast<__m512i>(a.v), reinterpret_cast<__m512i>(b.v))};
}
STRATA_WIDE inline WideMask operator==(WideInt a, WideInt b) {
  return {_mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a.v), reinterpret_cast<__m512i>(b.v))};
}
STRATA_WIDE inline WideMask operator>=(WideFloat a, WideFloat b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
}
STRATA_WIDE inline WideMask operator<(WideFloat a, WideFloat b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
STRATA_WIDE inline WideMask operator>(WideFloat a, WideFloat b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)};
}
STRATA_WIDE inline WideMask operator||(WideMask a, WideMask b) {
  return {static_cast<__mmask16>(a.bits | b.bits)};
}
STRATA_WIDE inline WideFloat exponent_of(WideFloat x) {
  const __m512i exponents = reinterpret_cast<__m512i>(Ints16{} + 0x7f800000);
  const __mmask16 normal = _mm512_test_epi32_mask(reinterpret_cast<__m512i>(x.v), exponents);
  return Floats16(_mm512_mask_getexp_ps(-0x1p14f - Floats16{}, normal, x.v));
}
STRATA_WIDE inline WideFloat times_power(WideFloat x, WideFloat n) {
  return Floats16(_mm512_maskz_scalef_ps(0xffff, x.v, n.v));
}
STRATA_WIDE inline WideFloat select(WideMask which, WideFloat yes, WideFloat no) {
  return Floats16(_mm512_mask_blend_ps(which.bits, no.v, yes.v));
}
STRATA_WIDE inline WideInt select(WideMask which, WideInt yes, WideInt no) {
  return Ints16(_mm512_mask_blend_epi32(
      which.bits, reinterpret_cast<__m512i>(no.v), reinterpret_cast<__m512i>(yes.v)));
}
STRATA_WIDE inline WideInt bits_of(WideFloat x) {
  return reinterpret_cast<Ints16>(x.v);
}
STRATA_WIDE inline WideFloat float_of(WideInt x) {
  return reinterpret_cast<Floats16>(x.v);
}
STRATA_WIDE inline WideFloat float_from(WideInt x) {
  return __builtin_convertvector(x.v, Floats16);
}
STRATA_WIDE inline WideInt truncated(WideFloat x) {
  return __builtin_convertvector(x.v, Ints16);
}
STRATA_WIDE inline WideInt least_of(WideInt a, WideInt b) {
  return a.v < b.v ? a.v : b.v;
}
STRATA_WIDE inline WideInt most_of(WideInt a, WideInt b) {
  return a.v > b.v ? a.v : b.v;
}
STRATA_WIDE inline WideFloat most_of(WideFloat a, WideFloat b) {
  return Floats16(_mm512_maskz_max_ps(0xffff, b.v, a.v));
}
STRATA_WIDE inline LaneTable<16> product(const LaneTable<16>& table, WideFloat by) {
  Floats16 values;
  std::memcpy(&values, table.values, sizeof values);
  values = values * by.v + 0.f;
  LaneTable<16> result;
  std::memcpy(result.values, &values, sizeof values);
  return result;
}
STRATA_WIDE inline WideFloat greater_size(WideFloat a, WideFloat b) {
  return Floats16(_mm512_maskz_range_ps(0xffff, a.v, b.v, 0xb));
}
STRATA_WIDE inline WideFloat pick(const LaneTable<16>& table, WideInt index) {
  Floats16 values;
  std::memcpy(&values, table.values, sizeof values);
  return __builtin_shuffle(values, index.v);
}
STRATA_WIDE inline WideFloat pick(const LaneTable<32>& table, WideInt index) {
  Floats16 low, high;
  std::memcpy(&low, table.values, sizeof low);
  std::memcpy(&high, table.values + 16, sizeof high);
  return __builtin_shuffle(low, high, index.v);
}
STRATA_WIDE inline WideInt pick(const LaneTable<32, std::int32_t>& table, WideInt index) {
  Ints16 low, high;
  std::memcpy(&low, table.values, sizeof low);
  std::memcpy(&high, table.values + 16, sizeof high);
  return __builtin_shuffle(low, high, index.v);
}

/// How many lanes F has, and how they meet memory.
template <class F>
inline constexpr std::int64_t kLanesOf = 16;
template <>
inline constexpr std::int64_t kLanesOf<float> = 1;

/// Has a cache line that is needed soon fetched into the second level, by as many lanes as fill it:
/// the first one is full of what is worked on. The address may be anything.
template <class F>
inline void fetch(const void* memory) {
  if constexpr (kLanesOf < F >> 1) {
    __builtin_prefetch(memory, 0, 2);
  }
}

inline void read(float& to, const float* from) {
  to = *from;
}
inline void write(float* to, float from) {
  *to = from;
}
inline void read_bytes(std::int32_t& to, const std::uint8_t* from) {
  to = *from;
}
/// Bytes below what `base` has above them.
inline void read_bytes(std::int32_t& to, const std::uint8_t* from, std::int32_t base) {
  to = *from | base;
}
inline void write_bytes(std::uint8_t* to, std::int32_t from) {
  *to = static_cast<std::uint8_t>(from);
}
STRATA_WIDE inline void read(WideFloat& to, const float* from) {
  std::memcpy(&to.v, from, sizeof to.v);
}
STRATA_WIDE inline void write(float* to, WideFloat from) {
  std::memcpy(to, &from.v, sizeof from.v);
}
STRATA_WIDE inline void read_bytes(WideInt& to, const std::uint8_t* from) {
  __m128i bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  to.v = reinterpret_cast<Ints16>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
}
STRATA_WIDE inline void read_bytes(WideInt& to, const std::uint8_t* from, std::int32_t base) {
  read_bytes(to, from);
  to = to | WideInt(base);
}
STRATA_WIDE inline void write_bytes(std::uint8_t* to, WideInt from) {
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(from.v));
  std::memcpy(to, &bytes, sizeof bytes);
}
// Elements 2i and 2i + 1 in lane i of two.
inline void read_pairs(float& even, float& odd, const float* from) {
  even = from[0], odd = from[1];
}
STRATA_WIDE inline void read_pairs(WideFloat& even, WideFloat& odd, const float* from) {
  Floats16 low, high;
  std::memcpy(&low, from, sizeof low);
  std::memcpy(&high, from + 16, sizeof high);
  const Ints16 place = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  even.v = __builtin_shuffle(low, high, place);
  odd.v = __builtin_shuffle(low, high, place + 1);
}
/// Elements from i, two in a byte, the even one in the high half; in the low bits of the lanes.
inline void read_halves(std::int32_t& to, const std::uint8_t* from, std::int64_t i) {
  to = from[i / 2] >> (i % 2 == 0 ? 4 : 0);
}
STRATA_WIDE inline void read_halves(WideInt& to, const std::uint8_t* from, std::int64_t i) {
  std::int64_t bytes;
  std::memcpy(&bytes, from + i / 2, sizeof bytes);
  const __m128i once = _mm_cvtsi64_si128(bytes), twice = _mm_unpacklo_epi8(once, once);
  const Ints16 wide = reinterpret_cast<Ints16>(_mm512_maskz_cvtepu8_epi32(0xffff, twice));
  to.v = wide >> Ints16{4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0};
}

template <int Lanes>
STRATA_WIDE inline WideInt rotated(WideInt x) {
  const Ints16 place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return __builtin_shuffle(x.v, place + Lanes);
}
/// The lanes for which a comparison holds, as bits.
inline std::uint32_t lanes_of(bool holds) {
  return holds ? 1u : 0u;
}
STRATA_WIDE inline std::uint32_t lanes_of(WideMask mask) {
  return mask.bits;
}
inline std::int32_t greatest_lane(std::int32_t x) {
  return x;
}
STRATA_WIDE inline std::int32_t greatest_lane(WideInt x) {
  x = most_of(x, rotated<8>(x)), x = most_of(x, rotated<4>(x));
  x = most_of(x, rotated<2>(x)), x = most_of(x, rotated<1>(x));
  return x.v[0];
}
inline std::int32_t least_lane(std::int32_t x) {
  return x;
}
STRATA_WIDE inline std::int32_t least_lane(WideInt x) {
  x = least_of(x, rotated<8>(x)), x = least_of(x, rotated<4>(x));
  x = least_of(x, rotated<2>(x)), x = least_of(x, rotated<1>(x));
  return x.v[0];
}

/// body(std::type_identity<F>()) for the widest lanes of the current level; compiled for it.
template <class Body>
void with_lanes(const Body& body) {
  const auto wide = [&] { body(std::type_identity<WideFloat>()); };
  const auto single = [&] { body(std::type_identity<float>()); };
  switch (isa_level()) {
    case IsaLevel::avx512:
      return run_avx512(wide);
    case IsaLevel::avx2:
      return run_avx2(single);
    case IsaLevel::base:
      return run_base(single);
  }
}

}  // namespace strata::cpu

namespace strata {
template <>
struct LaneTraits<cpu::WideFloat> {
  using Int = cpu::WideInt;
};
}  // namespace strata
