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
STRATA_WIDE inline WideFloat operator*(WideFloat a, WideFloat b) {
  return a.v * b.v;
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
STRATA_WIDE inline WideMask operator||(WideMask a, WideMask b) {
  return {static_cast<__mmask16>(a.bits | b.bits)};
}
STRATA_WIDE inline WideInt product16(WideInt a, WideInt b) {
  return reinterpret_cast<Ints16>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a.v), reinterpret_cast<__m512i>(b.v)));
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

inline void read(float& to, const float* from) {
  to = *from;
}
inline void write(float* to, float from) {
  *to = from;
}
inline void read_bytes(std::int32_t& to, const std::uint8_t* from) {
  to = *from;
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
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));
STRATA_WIDE inline void read_bytes(WideInt& to, const std::uint8_t* from) {
  __m128i bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  to.v = reinterpret_cast<Ints16>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
}
STRATA_WIDE inline void write_bytes(std::uint8_t* to, WideInt from) {
  const Bytes16 bytes = __builtin_convertvector(from.v, Bytes16);
  std::memcpy(to, &bytes, sizeof bytes);
}
// Elements 2i and 2i + 1 in lane i of two.
inline void read_pairs(float& even, float& odd, const float* from) {
  even = from[0], odd = from[1];
}
inline void write_pairs(float* to, float even, float odd) {
  to[0] = even, to[1] = odd;
}
STRATA_WIDE inline void read_pairs(WideFloat& even, WideFloat& odd, const float* from) {
  Floats16 low, high;
  std::memcpy(&low, from, sizeof low);
  std::memcpy(&high, from + 16, sizeof high);
  const Ints16 place = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  even.v = __builtin_shuffle(low, high, place);
  odd.v = __builtin_shuffle(low, high, place + 1);
}
STRATA_WIDE inline void write_pairs(float* to, WideFloat even, WideFloat odd) {
  const Ints16 place = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  write(to, __builtin_shuffle(even.v, odd.v, place));
  write(to + 16, __builtin_shuffle(even.v, odd.v, place + 8));
}

inline std::int32_t greatest_lane(std::int32_t x) {
  return x;
}
STRATA_WIDE inline std::int32_t greatest_lane(WideInt x) {
  std::int32_t most = x.v[0];
  for (int i = 1; i < 16; ++i) {
    most = strata::most_of(most, x.v[i]);
  }
  return most;
}
inline std::int32_t least_lane(std::int32_t x) {
  return x;
}
STRATA_WIDE inline std::int32_t least_lane(WideInt x) {
  std::int32_t least = x.v[0];
  for (int i = 1; i < 16; ++i) {
    least = strata::least_of(least, x.v[i]);
  }
  return least;
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
