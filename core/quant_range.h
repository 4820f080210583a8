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
    const F nearest = rounded(high + low);
    const F value = times_power(exp2_of((high - nearest) + low), nearest);
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
  /// log2 of a mantissa in [1, 2) by its five upper bits and a polynomial; absolute error 1.1e-7.
  template <class F>
  STRATA_HD static F log2_of(const F& mantissa, const LaneInt<F>& upper) {
    const F r = fma_(mantissa, pick(kInverse, upper), F(-1.f));
    F p = fma_(r, F(0.48099798f), F(-0.72142047f));
    p = fma_(p, r, F(1.442695f));
    return fma_(p, r, pick(kLog2, upper));
  }

  /// 2^x, |x| <= 1/2; relative error 1.2e-7.
  template <class F>
  STRATA_HD static F exp2_of(const F& x) {
    const F square = x * x;
    const F high = fma_(x, F(kExp2[5]), F(kExp2[4]));
    const F middle = fma_(x, F(kExp2[3]), F(kExp2[2]));
    return fma_(fma_(high, square, middle), square, fma_(x, F(kExp2[1]), F(1.f)));
  }

  static constexpr float kExp2[6] = {
      1.f, 6.93147e-01f, 2.4022242e-01f, 5.5507336e-02f, 9.671513e-03f, 1.3264727e-03f};
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

  /// What tables are made of: 1 / k, and the logarithm of s^(1/k) c.
  struct Exponents {
    double step = 0.0, base = 0.0;
    STRATA_HD static Exponents of(const ExpandedRange& range) {
      const double step = 1.0 / static_cast<double>(range.power);
      return {step,
              log2_(static_cast<double>(range.scale)) * step +
                  log2_(static_cast<double>(range.centre))};
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
      exponents.values[i] = power_of_two(fma_(i - 7.0, of.step, of.base));
    }
    for (int i = 0; i < 16; ++i) {
      mantissas.values[i] = power_of_two(kLog2[i] * of.step);
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
  /// As far as it is a normal float; |x| < 2^20.
  STRATA_HD static float power_of_two(double x) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
    const double shifted = x + kRound;
    const auto part = static_cast<float>(x - (shifted - kRound));
    const auto whole = static_cast<std::int32_t>(std::bit_cast<std::int64_t>(shifted));
    float p = fma_(part, 1.5353362e-04f, 1.3398874e-03f);
    p = fma_(p, part, 9.618437e-03f);
    p = fma_(p, part, 5.5503324e-02f);
    p = fma_(p, part, 2.4022648e-01f);
    p = fma_(p, part, 6.931472e-01f);
    p = fma_(p, part, 1.f);
    const std::int32_t limited = least_of(most_of(whole, -125), 127);
    return p * float_of((limited + 127) << 23);
  }
};

}  // namespace strata::quant
