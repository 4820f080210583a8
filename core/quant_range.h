#pragma once
#include "core/quant.h"

namespace strata::quant {

/// Dynamic range expansion before FP8 (Xi et al., COAT, ICLR 2025, section 4): the magnitudes of a
/// group are raised to the power k that stretches them over all of E4M3's range. x = sign * c *
/// (|code| * s)^(1/k).
struct ExpandedRange {
  float scale = 0.f, power = 1.f, centre = 1.f;
  static constexpr double kFp8Log2Range = 16.614709844115207;  // log2(448^2 / 2)

  /// `least`, `most`: least non-zero and largest magnitude of the group, both 0 where all are zero:
  /// that group's scale is 0, see zero(). Without branches, so that groups are done side by side.
  STRATA_HD static ExpandedRange of(float least, float most) {
    const double high = static_cast<double>(most) + 1e-30, low = static_cast<double>(least) + 1e-30;
    const double log_high = log2_(high), log_low = log2_(low);
    // Selects by bits: a compiler makes branches of others, and then no vectors.
    const auto ratio_bits = std::bit_cast<std::int64_t>(log_high - log_low);
    constexpr auto kQuarter = std::bit_cast<std::int64_t>(0.25);
    const auto ratio = std::bit_cast<double>(ratio_bits > kQuarter ? ratio_bits : kQuarter);
    const auto sixteenths = static_cast<std::int32_t>(16.0 * kFp8Log2Range / ratio);
    const std::int32_t limited = least_of(most_of(sixteenths, 1), 1024);
    // One magnitude alone has no range to stretch.
    const std::int32_t single = -static_cast<std::int32_t>(most == least);
    const double power = 0.0625 * ((limited & ~single) | (16 & single));
    const auto centre = static_cast<float>(std::sqrt(high) * std::sqrt(low));
    const double top = exp2_(power * (log_high - log2_(static_cast<double>(centre))));
    return {static_cast<float>(top / Fp8E4M3::kMax), static_cast<float>(power), centre};
  }
  static constexpr ExpandedRange zero() { return {0.f, 1.f, 1.f}; }
};

/// Codes of a group: log2 of (|x| / c)^k / s, kept as integer and fraction, so that its error is
/// that of two or three roundings of x or of the value that is coded, whatever the range; then that
/// value, 2^-120 of it: its float is subnormal where E4M3 is, and rounds to four bits as any other.
/// It was rounded to a multiple of 2^-149 before: by less than two ulps where a group has values.
struct ExpandedEncoder {
  float power = 0.f;  // k
  float whole = 0.f;  // the integer next to log2(c^k s), and 120
  float part = 0.f;   // what that log2 has besides

  /// Of a group that is not zero; one of zeros may have any.
  STRATA_HD static ExpandedEncoder of(const ExpandedRange& range) {
    constexpr double kRound = 6755399441055744.0;
    const auto power = static_cast<double>(range.power);
    const double shift =
        power * log2_(static_cast<double>(range.centre)) + log2_(static_cast<double>(range.scale));
    const double whole = (shift + kRound) - kRound;
    return {range.power, static_cast<float>(whole + 120.0), static_cast<float>(shift - whole)};
  }

  /// In the low byte of what is returned. Magnitudes below 2^-126 have the code of zero. Not
  /// `Signed`: of x that is never below zero.
  template <bool Signed = true, class F>
  STRATA_HD LaneInt<F> encode(const F& x) const {
    using Int = LaneInt<F>;
    const Int bits = bits_of(x);
    const F mantissa = float_of((bits & Int(0x007fffff)) | Int(0x3f800000));
    const F low = fma_(F(power), log2_of(mantissa, bits >> 18), F(-part));
    // Exact: k is a multiple of 1/16, and so is what remains where the integer is taken off.
    const F high = fma_(F(power), exponent_of(x), F(-whole));
    // To whole thirty-seconds, by which a table has the fraction.
    const F shifted = (high + low) + F(kRound), nearest = shifted - F(kRound);
    const F rest = (high - nearest) + low;
    const F factor = fma_(fma_(rest, F(2.4022654e-01f), F(6.931573e-01f)), rest, F(1.f));
    const F value = times_power(factor * pick(kExp2, bits_of(shifted)), nearest);
    const Int code = (bits_of(value) + Int(0x00080000)) >> 20;
    if constexpr (Signed) {
      // Zero has no sign: one less has bit 7.
      const Int sign = (bits >> 24) & Int(0x80);
      return code | (sign & ~(code - Int(1)));
    } else {
      return code;
    }
  }

 private:
  /// log2 of a mantissa in [1, 2) by its five upper bits and a polynomial; absolute error 7e-8.
  template <class F>
  STRATA_HD static F log2_of(const F& mantissa, const LaneInt<F>& upper) {
    const F r = fma_(mantissa, pick(kInverse, upper), F(-1.f));
    F p = fma_(r, F(0.48099798f), F(-0.72142047f));
    p = fma_(p, r, F(1.442695f));
    return fma_(p, r, pick(kLog2, upper));
  }

  static constexpr float kRound = 393216.f;  // 1.5 * 2^18
  // 2^(i / 32)
  static constexpr LaneTable<32> kExp2 = {
      {1.e+00f,        1.0218972e+00f, 1.0442737e+00f, 1.0671405e+00f, 1.0905077e+00f,
       1.1143868e+00f, 1.1387886e+00f, 1.1637249e+00f, 1.1892071e+00f, 1.2152474e+00f,
       1.2418578e+00f, 1.269051e+00f,  1.2968396e+00f, 1.3252367e+00f, 1.3542556e+00f,
       1.38391e+00f,   1.4142135e+00f, 1.4451808e+00f, 1.4768262e+00f, 1.5091645e+00f,
       1.5422108e+00f, 1.5759809e+00f, 1.6104903e+00f, 1.6457555e+00f, 1.6817929e+00f,
       1.7186193e+00f, 1.7562522e+00f, 1.7947091e+00f, 1.8340081e+00f, 1.8741677e+00f,
       1.9152066e+00f, 1.9571441e+00f}};
  // 1 / (1 + (i + 1/2) / 32) in nine bits, and its negative logarithm.
  static constexpr LaneTable<32> kInverse = {
      {504 / 512.f, 489 / 512.f, 475 / 512.f, 462 / 512.f, 449 / 512.f, 437 / 512.f, 426 / 512.f,
       415 / 512.f, 405 / 512.f, 395 / 512.f, 386 / 512.f, 377 / 512.f, 368 / 512.f, 360 / 512.f,
       352 / 512.f, 345 / 512.f, 338 / 512.f, 331 / 512.f, 324 / 512.f, 318 / 512.f, 312 / 512.f,
       306 / 512.f, 301 / 512.f, 295 / 512.f, 290 / 512.f, 285 / 512.f, 280 / 512.f, 275 / 512.f,
       271 / 512.f, 266 / 512.f, 262 / 512.f, 258 / 512.f}};
  static constexpr LaneTable<32> kLog2 = {
      {0.022720076f, 0.06630935f, 0.10821629f, 0.14825095f, 0.18942836f, 0.22851053f, 0.26529038f,
       0.3030325f,   0.3382219f,  0.37429115f, 0.40754297f, 0.44157928f, 0.47643805f, 0.5081469f,
       0.54056835f,  0.5695475f,  0.59912056f, 0.6293126f,  0.66015f,    0.68711704f, 0.71459776f,
       0.7426122f,   0.7663803f,  0.7954289f,  0.8200909f,  0.8451819f,  0.870717f,   0.8967122f,
       0.917851f,    0.9447176f,  0.966577f,   0.98877275f}};
};

/// Values of a group's codes: a product of what the exponent and what the mantissa stand for.
struct ExpandedDecoder {
  LaneTable<16> exponents, mantissas;

  /// What tables are made of: 1 / k and the logarithm of s^(1/k) c, each in two floats.
  struct Exponents {
    float step = 0.f, step_rest = 0.f;
    float whole = 0.f, part = 0.f;
    STRATA_HD static Exponents of(const ExpandedRange& range) {
      constexpr double kRound = 6755399441055744.0;
      const double step = 1.0 / static_cast<double>(range.power);
      const double base =
          log2_(static_cast<double>(range.scale)) * step + log2_(static_cast<double>(range.centre));
      const double whole = (base + kRound) - kRound;
      const auto rounded_step = static_cast<float>(step);
      return {rounded_step,
              static_cast<float>(step - static_cast<double>(rounded_step)),
              static_cast<float>(whole),
              static_cast<float>(base - whole)};
    }
  };
  STRATA_HD void make(const Exponents& of) {
    // log2 of m / 4, since subnormal codes have the exponent of 2^-7, and from 8 on of 1 + m / 8.
    constexpr double kLog2[16] = {0,
                                  -2,
                                  -1,
                                  -0.41503749927884381,
                                  0,
                                  0.32192809488736235,
                                  0.58496250072115619,
                                  0.80735492205760406,
                                  0,
                                  0.16992500144231237,
                                  0.32192809488736235,
                                  0.45943161863729726,
                                  0.58496250072115619,
                                  0.70043971814109218,
                                  0.80735492205760406,
                                  0.90689059560851848};
    for (int i = 0; i < 16; ++i) {
      exponents.values[i] = power_of_two(static_cast<float>(i - 7), 0.f, of);
    }
    const Exponents no_base = {of.step, of.step_rest, 0.f, 0.f};
    for (int i = 0; i < 16; ++i) {
      const auto by = static_cast<float>(kLog2[i]);
      mantissas.values[i] =
          power_of_two(by, static_cast<float>(kLog2[i] - static_cast<double>(by)), no_base);
    }
    mantissas.values[0] = 0.f;
  }
  /// Of a group without a scale.
  STRATA_HD void make_zero() {
    for (int i = 0; i < 16; ++i) {
      exponents.values[i] = mantissas.values[i] = 0.f;
    }
  }
  template <class F>
  STRATA_HD F decode(const LaneInt<F>& code) const {
    using Int = LaneInt<F>;
    const Int mantissa = select((code & Int(0x78)) == Int(0), code, code | Int(8));
    const F magnitude = pick(exponents, code >> 3) * pick(mantissas, mantissa);
    return float_of(bits_of(magnitude) | ((code & Int(0x80)) << 24));
  }

 private:
  /// 2^((by + by_rest) / k + base), as far as it is a normal float.
  STRATA_HD static float power_of_two(float by, float by_rest, const Exponents& of) {
    const float product = by * of.step;
    const float rest = fma_(by_rest, of.step, fma_(by, of.step_rest, fma_(by, of.step, -product)));
    const float nearest = rounded(product + of.part);
    const float part = (product - nearest) + (of.part + rest);
    float p = fma_(part, 1.5353362e-04f, 1.3398874e-03f);
    p = fma_(p, part, 9.618437e-03f);
    p = fma_(p, part, 5.5503324e-02f);
    p = fma_(p, part, 2.4022648e-01f);
    p = fma_(p, part, 6.931472e-01f);
    p = fma_(p, part, 1.f);
    const auto power = static_cast<std::int32_t>(nearest + of.whole);
    const std::int32_t limited = least_of(most_of(power, -125), 127);
    return p * float_of((limited + 127) << 23);
  }
};

}  // namespace strata::quant
