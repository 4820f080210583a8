#pragma once
// Codes for one value, single-source for both devices: block-wise users divide by their scale first
// and multiply after. Branch-free where they are used per element, so that loops vectorise; every
// step is one rounding that all instruction sets share.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/hd.h"
#include "core/math.h"

namespace strata::quant {

/// The dynamic code book of block-wise optimizers (Dettmers et al., 8-bit optimizers via block-wise
/// quantization, ICLR 2022): `Decades` powers of ten, the one below 10^-d cut into half as many
/// equal intervals as the one above it, their midpoints being the values; 0 and 1 besides.
/// Signed: 2^(Decades+1) codes in [-1, 1], ascending, kZero in the middle; there is no -1.
/// Unsigned: as many in [0, 1], each decade cut twice as fine.
template <int Decades, bool Signed>
struct DynamicCode {
  static constexpr int kCodes = 2 << Decades;
  static constexpr int kZero = Signed ? kCodes / 2 - 1 : 0;
  /// Half of the least positive value: what 0 stands for where 0 would be a hazard.
  static constexpr float kHalfLeast =
      0.5f * static_cast<float>(Signed ? 0.55 : 0.325) * (Decades == 7 ? 1e-6f : 1e-2f);

  STRATA_HD static float decode(int code) {
    // Magnitudes count from 1 within decade 0; where decades have 2^(i+1) values, from 2.
    const int signed_rank = Signed ? code - kZero : code + 1;
    const int rank = signed_rank < 0 ? -signed_rank : signed_rank;
    const auto wide = static_cast<float>(rank);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(wide) & 0x7f800000u;
    const int decade = static_cast<int>(bits >> 23) - 127 - kShift;
    const float j = wide - std::bit_cast<float>(bits);
    float first = kFirst[0], pitch = kPitch[0];
    for (int i = 1; i <= Decades; ++i) {
      first = decade >= i ? kFirst[static_cast<std::size_t>(i)] : first;
      pitch = decade >= i ? kPitch[static_cast<std::size_t>(i)] : pitch;
    }
    const float magnitude = fma_(j, pitch, first);
    const float value = rank <= (Signed ? 0 : 1) ? 0.f : magnitude;
    return signed_rank < 0 ? -value : value;
  }

  /// Nearest code of y in [-1, 1] or [0, 1]; exactly between two: the higher one.
  STRATA_HD static int encode(float y) {
    const float magnitude = y < 0.f ? -y : y;
    float first = kFirst[0], per_value = kPerValue[0];
    int decade = 0;
    for (int i = 1; i < Decades; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool above = magnitude >= kStart[at];
      first = above ? kFirst[at] : first;
      per_value = above ? kPerValue[at] : per_value;
      decade = above ? i : decade;
    }
    const int count = 1 << (decade + kShift);
    const float exact = (magnitude - first) * per_value;
    // A tie of negative values goes up too, that is towards zero.
    const float rounded = y < 0.f ? -std::floor(0.5f - exact) : std::floor(exact + 0.5f);
    const int j = static_cast<int>(rounded);
    const int inside = j < 0 ? 0 : (j >= count ? count - 1 : j);
    int rank = count + inside;
    rank = y >= kTop ? (kCodes >> (Signed ? 1 : 0)) : rank;
    if constexpr (Signed) {
      const bool zero = y < 0.f ? magnitude <= kHalfLeast : magnitude < kHalfLeast;
      rank = zero ? 0 : rank;
      return kZero + (y < 0.f ? -rank : rank);
    } else {
      return magnitude < kHalfLeast ? 0 : rank - 1;
    }
  }

 private:
  static constexpr int kShift = Signed ? 0 : 1;
  using Table = std::array<float, static_cast<std::size_t>(Decades) + 1>;
  static constexpr double power_of_ten(int e) {
    double p = 1.0;
    for (int i = 0; i < e; ++i) {
      p *= 10.0;
    }
    return p;
  }
  static constexpr double unit(int decade) { return 1.0 / power_of_ten(Decades - 1 - decade); }
  static constexpr double count_of(int decade) {
    return static_cast<double>(1 << (decade + kShift));
  }
  static constexpr double value(int decade, double j) {
    return unit(decade) * (0.1 + 0.9 * (j + 0.5) / count_of(decade));
  }
  template <class F>
  static constexpr Table table(F f, float last) {
    Table t{};
    for (int i = 0; i < Decades; ++i) {
      t[static_cast<std::size_t>(i)] = static_cast<float>(f(i));
    }
    t[static_cast<std::size_t>(Decades)] = last;
    return t;
  }
  static constexpr Table kFirst = table([](int i) { return value(i, 0); }, 1.f);
  static constexpr Table kPitch = table([](int i) { return unit(i) * 0.9 / count_of(i); }, 0.f);
  static constexpr Table kPerValue =
      table([](int i) { return count_of(i) / (unit(i) * 0.9); }, 0.f);
  // Where the first value of a decade is nearer than the last of the one below.
  static constexpr Table kStart = table(
      [](int i) { return i == 0 ? 0.0 : 0.5 * (value(i - 1, count_of(i - 1) - 1) + value(i, 0)); },
      1.f);
  static constexpr float kTop =
      static_cast<float>(0.5 * (1.0 + value(Decades - 1, count_of(Decades - 1) - 1)));
};
using Dynamic8Signed = DynamicCode<7, true>;
using Dynamic8Unsigned = DynamicCode<7, false>;
using Dynamic4Signed = DynamicCode<3, true>;

/// 1/16, 2/16 ... 1: the second moment in four bits, without a zero to divide by.
struct Linear4Unsigned {
  static constexpr int kCodes = 16, kZero = 0;
  static constexpr float kHalfLeast = 1.f / 32.f;
  STRATA_HD static float decode(int code) { return static_cast<float>(code + 1) * 0.0625f; }
  STRATA_HD static int encode(float y) {
    const int code = static_cast<int>(std::floor(fma_(y, 16.f, -0.5f)));
    return code < 0 ? 0 : (code > 15 ? 15 : code);
  }
};

/// 16 normal-float values (Dettmers et al., QLoRA, NeurIPS 2023).
inline constexpr std::array<float, 16> kNormalFloat4 = {-1.f,
                                                        -0.6961928009986877f,
                                                        -0.5250730514526367f,
                                                        -0.39491748809814453f,
                                                        -0.28444138169288635f,
                                                        -0.18477343022823334f,
                                                        -0.09105003625154495f,
                                                        0.f,
                                                        0.07958029955625534f,
                                                        0.16093020141124725f,
                                                        0.24611230194568634f,
                                                        0.33791524171829224f,
                                                        0.44070982933044434f,
                                                        0.5626170039176941f,
                                                        0.7229568362236023f,
                                                        1.f};
/// Nearest index; exactly between two: the higher one.
inline int encode_normal_float4(float y) {
  int code = 0;
  for (std::size_t i = 1; i < kNormalFloat4.size(); ++i) {
    const float middle = 0.5f * (kNormalFloat4[i - 1] + kNormalFloat4[i]);
    code = y >= middle ? static_cast<int>(i) : code;
  }
  return code;
}

/// FP8 with 4 exponent and 3 mantissa bits, no infinities (the "fn" variant): at most 448, least
/// positive 2^-9. Rounds to nearest even and saturates; NaN stays NaN.
struct Fp8E4M3 {
  static constexpr float kMax = 448.f;
  STRATA_HD static float decode(int code) {
    const auto u = static_cast<std::uint32_t>(code);
    const std::uint32_t magnitude = u & 0x7fu;
    // A normal code is a float with its exponent moved; a subnormal one counts 2^-9.
    const float normal = std::bit_cast<float>((magnitude << 20) + (120u << 23));
    const float small = static_cast<float>(static_cast<int>(magnitude)) * 0x1p-9f;
    const float value = magnitude < 8u ? small : normal;
    const float with_sign = (u & 0x80u) != 0u ? -value : value;
    return magnitude == 0x7fu ? std::bit_cast<float>(0x7fc00000u) : with_sign;
  }
  STRATA_HD static int encode(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = u >> 31 << 7, bits = u & 0x7fffffffu;
    const std::uint32_t rounded = (bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20;
    const std::uint32_t normal = rounded - (120u << 3);
    // Adding 2^14 leaves multiples of 2^-9 in the mantissa, rounded to nearest even.
    const float shifted = std::bit_cast<float>(bits) + 0x1p14f;
    const std::uint32_t small =
        std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p14f);
    std::uint32_t code = bits < (121u << 23) ? small : normal;
    code = bits > std::bit_cast<std::uint32_t>(kMax) ? 0x7eu : code;
    code = bits > 0x7f800000u ? 0x7fu : code;
    return static_cast<int>(code | sign);
  }
};

/// Scale and zero point of a group in `bits` bits, asymmetric; the range always holds 0, so that
/// groups of one sign do not saturate.
struct Affine {
  float scale = 0.f, zero = 0.f;
  int most = 255;
  STRATA_HD static Affine of(float least, float most_value, int bits) {
    const int most = (1 << bits) - 1;
    const float low = least < 0.f ? least : 0.f, high = most_value > 0.f ? most_value : 0.f;
    const float span = high - low;
    const float scale = (span > 1e-5f ? span : 1e-5f) / static_cast<float>(most);
    const float zero = std::rint(-low / scale);
    const auto limit = static_cast<float>(most);
    return {scale, zero < 0.f ? 0.f : (zero > limit ? limit : zero), most};
  }
  STRATA_HD float decode(int code) const { return scale * (static_cast<float>(code) - zero); }
  STRATA_HD int clamp(float code) const {
    const auto limit = static_cast<float>(most);
    return static_cast<int>(code < 0.f ? 0.f : (code > limit ? limit : code));
  }
  STRATA_HD int encode(float x) const { return clamp(std::rint(x / scale) + zero); }
  /// `u` uniform in [0, 1): up with the probability of the fraction.
  STRATA_HD int encode(float x, float u) const {
    const float exact = x / scale, below = std::floor(exact);
    return clamp(below + (u < exact - below ? 1.f : 0.f) + zero);
  }
};

}  // namespace strata::quant
