#pragma once
// Included by core/math.h. Branch-free, so that loops over these vectorise: a select replaces each
// branch, and every step is a single rounding that all instruction sets share.

namespace strata {

/// e^x = factor * 2^power, factor in [0.7, 1.42].
struct ExpParts {
  float factor;
  std::uint32_t power;
};

STRATA_HD inline ExpParts exp_parts(float x) {
  // x = n ln2 + r, |r| <= ln2 / 2. Adding 1.5 * 2^23 rounds to an integer in the low mantissa bits.
  constexpr float kRound = 12582912.f;
  const float shifted = fma_(x, 1.44269504f, kRound);
  const float n = shifted - kRound;
  const float r = fma_(n, -1.42860677e-6f, fma_(n, -0.693145752f, x));
  float p = 1.98527617e-4f;
  p = fma_(p, r, 1.39304355e-3f);
  p = fma_(p, r, 8.33336077e-3f);
  p = fma_(p, r, 4.16664854e-2f);
  p = fma_(p, r, 1.66666672e-1f);
  p = fma_(p, r, 0.5f);
  p = fma_(p * r, r, r) + 1.f;
  return {p, std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u};
}

inline float exp_(float x) {
  const auto [p, k] = exp_parts(x);
  // 2^n in two factors, since 2^128 is no float and 2^-126 / 2 no normal one.
  const std::uint32_t half = static_cast<std::uint32_t>(static_cast<std::int32_t>(k) >> 1);
  const float a = std::bit_cast<float>((half + 127u) << 23);
  const float b = std::bit_cast<float>((k - half + 127u) << 23);
  const float y = p * a * b;
  const float high = x > 88.7f ? std::bit_cast<float>(0x7f800000u) : y;
  return x < -87.3f ? 0.f : high;
}

inline float exp_softmax(float x) {
  const auto [p, k] = exp_parts(x);
  const float y = p * std::bit_cast<float>((k + 127u) << 23);
  return x < -87.3f ? 0.f : y;
}

inline float tanh_(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  const float e = exp_(-2.f * std::bit_cast<float>(u & 0x7fffffffu));
  const float t = (1.f - e) / (1.f + e);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(t) | (u & 0x80000000u));
}

inline float log_(float x) {
  // x = m 2^e with m in [sqrt(1/2), sqrt(2)), so that e = 0 around 1 and nothing cancels there.
  constexpr std::uint32_t kSqrtHalf = 0x3f3504f3u;
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x) - kSqrtHalf;
  const float e = static_cast<float>(static_cast<std::int32_t>(u) >> 23);
  const float f = std::bit_cast<float>((u & 0x007fffffu) + kSqrtHalf) - 1.f;
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = fma_(p, f, -1.1514610310e-1f);
  p = fma_(p, f, 1.1676998740e-1f);
  p = fma_(p, f, -1.2420140846e-1f);
  p = fma_(p, f, 1.4249322787e-1f);
  p = fma_(p, f, -1.6668057665e-1f);
  p = fma_(p, f, 2.0000714765e-1f);
  p = fma_(p, f, -2.4999993993e-1f);
  p = fma_(p, f, 3.3333331174e-1f);
  const float tail = fma_(e, -2.12194440e-4f, p * f * z);
  return fma_(e, 0.693359375f, f + fma_(-0.5f, z, tail));
}

inline double log2_(double x) {
  constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdull;
  const std::uint64_t u = std::bit_cast<std::uint64_t>(x) - kSqrtHalf;
  const auto e = static_cast<double>(static_cast<std::int64_t>(u) >> 52);
  const double m = std::bit_cast<double>((u & 0x000fffffffffffffull) + kSqrtHalf);
  // ln m = 2 atanh((m - 1) / (m + 1)), whose argument is at most 0.172.
  const double z = (m - 1.0) / (m + 1.0), y = z * z;
  double p = 1.0 / 17;
  p = fma_(p, y, 1.0 / 15);
  p = fma_(p, y, 1.0 / 13);
  p = fma_(p, y, 1.0 / 11);
  p = fma_(p, y, 1.0 / 9);
  p = fma_(p, y, 1.0 / 7);
  p = fma_(p, y, 1.0 / 5);
  p = fma_(p, y, 1.0 / 3);
  p = fma_(p, y, 1.0);
  return fma_(2.0 * 1.4426950408889634 * z, p, e);
}

inline double exp2_(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double n = (x + kRound) - kRound;
  const double r = (x - n) * 0.6931471805599453;
  double p = 1.0 / 479001600;
  p = fma_(p, r, 1.0 / 39916800);
  p = fma_(p, r, 1.0 / 3628800);
  p = fma_(p, r, 1.0 / 362880);
  p = fma_(p, r, 1.0 / 40320);
  p = fma_(p, r, 1.0 / 5040);
  p = fma_(p, r, 1.0 / 720);
  p = fma_(p, r, 1.0 / 120);
  p = fma_(p, r, 1.0 / 24);
  p = fma_(p, r, 1.0 / 6);
  p = fma_(p, r, 1.0 / 2);
  p = fma_(p, r, 1.0);
  p = fma_(p, r, 1.0);
  const auto power = static_cast<std::uint64_t>(static_cast<std::int64_t>(n) + 1023);
  return p * std::bit_cast<double>(power << 52);
}

}  // namespace strata
