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

/// Where codes of E4M3 change, by sixteenths of a power of two for normal values and by quarters
/// for subnormal ones (below 2^-6); one cell holds at most one such place.
struct CodeChanges {
  LaneTable<32, std::int32_t> below;  // what is added below the change
  LaneTable<32> place;                // of the change, from the cell's first sixteenth
};
constexpr CodeChanges code_changes() {
  // log2(1 + (2j + 1) / 16) and log2(2j + 1): where normal and subnormal codes change.
  constexpr double kNormal[8] = {0.087462841250339401,
                                 0.24792751344358549,
                                 0.39231742277876031,
                                 0.52356195605701283,
                                 0.6438561897747247,
                                 0.75488750216346856,
                                 0.85798099512757209,
                                 0.95419631038687525};
  constexpr double kSmall[8] = {0,
                                1.5849625007211561,
                                2.3219280948873622,
                                2.8073549220576042,
                                3.1699250014423122,
                                3.4594316186372973,
                                3.7004397181410922,
                                3.9068905956085187};
  CodeChanges c{};
  int next = 0, next_small = 0;
  for (int i = 0; i < 32; ++i) {
    const bool is_small = i >= 16;
    const int from = is_small ? 4 * (i - 16) : i, until = is_small ? from + 4 : from + 1;
    int& j = is_small ? next_small : next;
    const double change = j == 8 ? 100.0 : 16.0 * (is_small ? kSmall[j] : kNormal[j]);
    const bool here = change < until - 0.5;
    c.below.values[i] = is_small ? j : 56 + j - (i >> 1);
    c.place.values[i] = here ? static_cast<float>(change - from) : 100.f;
    j += here ? 1 : 0;
  }
  return c;
}
inline constexpr CodeChanges kCodeChanges = code_changes();

/// Codes of a group. The code of x is found from the place of 16 log2(|x| / c)^k / s among those
/// where codes change: that number is kept as integer and fraction, so that its error is that of
/// two or three roundings of x or of the value that is coded, whatever the range.
struct ExpandedEncoder {
  float power = 0.f;       // 16 k
  float part = 0.f;        // 16 log2(c^k s): what is added to an integer
  std::int32_t steps = 0;  // 16 k
  std::int32_t whole = 0;  // the integer, and what exponents are too large by

  /// Of a group that is not zero; one of zeros may have any.
  STRATA_HD static ExpandedEncoder of(const ExpandedRange& range) {
    constexpr double kRound = 6755399441055744.0;
    const double power = 16.0 * static_cast<double>(range.power);
    const double shift = power * log2_(static_cast<double>(range.centre)) +
                         16.0 * log2_(static_cast<double>(range.scale));
    const double whole = (shift + kRound) - kRound;
    return {static_cast<float>(power),
            static_cast<float>(shift - whole),
            static_cast<std::int32_t>(power),
            static_cast<std::int32_t>(whole + 127.0 * power)};
  }

  /// In the low byte of what is returned. Magnitudes below 2^-126 have the code of zero.
  template <class F>
  STRATA_HD LaneInt<F> encode(const F& x) const {
    using Int = LaneInt<F>;
    constexpr float kRound = 12582912.f;  // 1.5 * 2^23
    const Int bits = bits_of(x), size = bits & Int(0x7fffffff);
    const F mantissa = float_of((bits & Int(0x007fffff)) | Int(0x3f800000));
    const F low = fma_(F(power), log2_of(mantissa, bits >> 19), F(-part));
    const F shifted = low + F(kRound);
    const F rest = low - (shifted - F(kRound));
    // In sixteenths of a power of two, the one nearest to the value; the rest is at most 1/2.
    const Int at =
        product16(size >> 23, Int(steps)) + bits_of(shifted) - Int(whole + bits_of(kRound));
    const Int code = code_at(at, rest);
    const auto none = at < Int(-kLeast) || size < Int(0x00800000) || code == Int(0);
    return select(none, Int(0), code | ((bits >> 24) & Int(0x80)));
  }

 private:
  /// log2 of a mantissa in [1, 2) by its four upper bits and a polynomial; absolute error 7e-8.
  template <class F>
  STRATA_HD static F log2_of(const F& mantissa, const LaneInt<F>& upper) {
    const F r = fma_(mantissa, pick(kInverse, upper), F(-1.f));
    F p = fma_(r, F(-0.360673761f), F(0.480898347f));
    p = fma_(p, r, F(-0.721347520f));
    p = fma_(p, r, F(1.44269504f));
    return fma_(p, r, pick(kLog2, upper));
  }

  template <class F>
  STRATA_HD static LaneInt<F> code_at(const LaneInt<F>& at, const F& rest) {
    using Int = LaneInt<F>;
    const auto small = at < Int(-6 * 16);
    const Int above = at + Int(kLeast);
    const Int cell = select(small, (above >> 2) + Int(16), at & Int(15));
    const F place = rest + float_from(select(small, above & Int(3), Int(0)));
    const Int first = select(small, Int(0), at >> 1) + pick(kCodeChanges.below, cell);
    return select(place >= pick(kCodeChanges.place, cell), first + Int(1), first);
  }

  static constexpr int kLeast = 160;  // half of the least value is 2^-10
  // 1 / (1 + (i + 1/2) / 16) in eight bits, and its negative logarithm.
  static constexpr LaneTable<16> kInverse = {{248 / 256.f,
                                              234 / 256.f,
                                              221 / 256.f,
                                              210 / 256.f,
                                              200 / 256.f,
                                              191 / 256.f,
                                              182 / 256.f,
                                              174 / 256.f,
                                              167 / 256.f,
                                              161 / 256.f,
                                              155 / 256.f,
                                              149 / 256.f,
                                              144 / 256.f,
                                              139 / 256.f,
                                              134 / 256.f,
                                              130 / 256.f}};
  static constexpr LaneTable<16> kLog2 = {{0.0458036896f,
                                           0.12963528f,
                                           0.212097441f,
                                           0.285754482f,
                                           0.35614381f,
                                           0.422571172f,
                                           0.49220536f,
                                           0.557056504f,
                                           0.616295708f,
                                           0.669083122f,
                                           0.723875595f,
                                           0.78083148f,
                                           0.830074999f,
                                           0.881058927f,
                                           0.93391081f,
                                           0.977632187f}};
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
    const auto part = static_cast<float>((x - (shifted - kRound)) * 0.6931471805599453);
    const auto whole = static_cast<std::int32_t>(std::bit_cast<std::int64_t>(shifted));
    const ExpParts parts = exp_parts(part);
    const std::int32_t power = whole + static_cast<std::int32_t>(parts.power);
    const std::int32_t limited = least_of(most_of(power, -125), 127);
    return parts.factor * float_of((limited + 127) << 23);
  }
};

}  // namespace strata::quant
