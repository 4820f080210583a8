#pragma once
#include "core/quant.h"

namespace strata::quant {

/// Dynamic range expansion before FP8 (Xi et al., COAT, ICLR 2025, section 4): the magnitudes of a
/// group are raised to the power k that stretches them over all of E4M3's range. x = sign * c *
/// (|code| * s)^(1/k).
struct ExpandedRange {
  float scale = 0.f, power = 1.f, centre = 1.f;
  static constexpr double kFp8Log2Range = 16.614709844115207;  // log2(448^2 / 2)

  /// `least`, `most`: least non-zero and largest magnitude of the group; most = 0: all are zero.
  STRATA_HD static ExpandedRange of(float least, float most) {
    const double high = static_cast<double>(most) + 1e-30, low = static_cast<double>(least) + 1e-30;
    if (!(most > 0.f)) {
      return {0.f, 1.f, 1.f};
    }
    const double ratio = log2_(high) - log2_(low);
    // One magnitude alone has no range to stretch.
    double power = most == least ? 1.0 : std::floor(16.0 * kFp8Log2Range / ratio) / 16.0;
    power = power > 64.0 ? 64.0 : (power < 0.0625 ? 0.0625 : power);
    const auto centre = static_cast<float>(std::sqrt(high) * std::sqrt(low));
    const double top = exp2_(power * (log2_(high) - log2_(static_cast<double>(centre))));
    return {static_cast<float>(top / Fp8E4M3::kMax), static_cast<float>(power), centre};
  }
};

/// What every value of a group shares, in integer and fraction, so that large exponents cost no
/// precision: the error of a value is that of two or three roundings whatever the range.
struct ExpandedCoder {
  float power = 1.f, inverse_power = 1.f, centre = 1.f;
  float encode_whole = 0.f, encode_part = 0.f;  // power * log2(centre) + log2(scale)
  float decode_whole = 0.f, decode_part = 0.f;  // log2(scale)

  STRATA_HD explicit ExpandedCoder(const ExpandedRange& range) {
    if (!(range.scale > 0.f)) {
      return;
    }
    power = range.power;
    inverse_power = 1.f / power;
    centre = range.centre;
    const double scale = log2_(static_cast<double>(range.scale));
    const double both = static_cast<double>(power) * log2_(static_cast<double>(centre)) + scale;
    const double whole = std::floor(both + 0.5), scale_whole = std::floor(scale + 0.5);
    encode_whole = static_cast<float>(whole);
    encode_part = static_cast<float>(both - whole);
    decode_whole = static_cast<float>(scale_whole);
    decode_part = static_cast<float>(scale - scale_whole);
  }

  STRATA_HD int encode(float x) const {
    constexpr float kLog2E = 1.44269504f;
    constexpr std::uint32_t kSqrtHalf = 0x3f3504f3u;
    const float magnitude = x < 0.f ? -x : x;
    const std::uint32_t u = std::bit_cast<std::uint32_t>(magnitude) - kSqrtHalf;
    const float e = static_cast<float>(static_cast<std::int32_t>(u) >> 23);
    const float m = std::bit_cast<float>((u & 0x007fffffu) + kSqrtHalf);
    // power is a multiple of 1/16, so that this product and difference are exact.
    const float high = fma_(power, e, -encode_whole);
    const float high_whole = nearest(high);
    const float low = fma_(power, log_(m) * kLog2E, (high - high_whole) - encode_part);
    const float y = exp2(high_whole, low);
    const int code = Fp8E4M3::encode(y);
    const int with_sign = x < 0.f ? code | 0x80 : code;
    return magnitude < 0x1p-126f ? 0 : with_sign;
  }

  STRATA_HD float decode(int code) const {
    const float y = Fp8E4M3::decode(code & 0x7f);
    const std::uint32_t u = std::bit_cast<std::uint32_t>(y);
    const float e = static_cast<float>(static_cast<std::int32_t>(u >> 23) - 127);
    // log2(1 + eighths / 8); the mantissa of a code has three bits.
    constexpr float kLog2[8] = {0.f,
                                0.169925001f,
                                0.321928095f,
                                0.459431619f,
                                0.584962501f,
                                0.700439718f,
                                0.807354922f,
                                0.906890596f};
    const std::uint32_t eighths = u >> 20 & 7u;
    float part = kLog2[0];
    for (std::uint32_t i = 1; i < 8; ++i) {
      part = eighths == i ? kLog2[i] : part;
    }
    const float whole = e + decode_whole;
    const float product = whole * inverse_power;
    const float lost = fma_(whole, inverse_power, -product);
    const float product_whole = nearest(product);
    const float low = fma_(part + decode_part, inverse_power, lost) + (product - product_whole);
    const float magnitude = exp2(product_whole, low) * centre;
    const float value = (code & 0x80) != 0 ? -magnitude : magnitude;
    return (code & 0x7f) == 0 ? 0.f : value;
  }

 private:
  STRATA_HD static float nearest(float x) {
    constexpr float kRound = 12582912.f;  // 1.5 * 2^23
    return (x + kRound) - kRound;
  }
  /// 2^(whole + low), limited to what a float holds; |whole| <= 2^22.
  STRATA_HD static float exp2(float whole, float low) {
    const float rest = nearest(low);
    const float total = whole + rest;
    const float limited = total < -125.f ? -125.f : (total > 126.f ? 126.f : total);
    const auto power_bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(limited) + 127)
                            << 23;
    const ExpParts parts = exp_parts((low - rest) * 0.693147181f);
    return parts.factor * std::bit_cast<float>(power_bits + (parts.power << 23));
  }
};

}  // namespace strata::quant
