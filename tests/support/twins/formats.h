#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

/// Float64 evaluators of the methods, written from the published equations; they share nothing with
/// the rules they judge. Each is a function of weights, state, gradient, settings, learning rate
/// and step, so it runs freely or is fed the kernel's own state before every step.
namespace strata::tests::twins {

using Vec = std::vector<double>;
using Bytes = std::vector<std::uint8_t>;

/// Margin of a choice that no rounding error can flip.
inline constexpr double kFar = std::numeric_limits<double>::infinity();

/// Spacing of f32 at x.
inline double f32_ulp(double x) {
  const int exponent = x == 0 ? -126 : std::max(std::ilogb(x), -126);
  return std::ldexp(1.0, exponent - 23);
}

/// A value put on a grid: the choice, the other grid neighbour, and the distance of the exact value
/// from the nearest place where the choice flips, in f32 ulps.
struct Rounded {
  double value = 0, other = 0, margin = kFar;
};

/// Spacing of bf16 at x.
inline double bf16_ulp(double x) {
  return std::ldexp(f32_ulp(x), 16);
}

inline constexpr double kBf16Max = 0x1.FEp127;

/// Nearest even. `term`: largest summand that made x, where the ulps of the margin are counted if
/// it is larger than x.
inline Rounded round_bf16(double x, double term = 0) {
  if (!std::isfinite(x)) {
    return {x, x, kFar};
  }
  const double q = bf16_ulp(x), n = x / q, below = std::floor(n);
  double value = std::nearbyint(n) * q;
  const double other = n == below ? value : (value > x ? below : below + 1) * q;
  const double margin = std::abs(n - below - 0.5) * q / f32_ulp(std::max(std::abs(x), term));
  if (std::abs(value) > kBf16Max) {
    value = std::copysign(kFar, x);
  }
  return {value, other, margin};
}

/// Toward -inf; `toward` = +1: toward +inf. Zero is exact in every arithmetic, but where it is the
/// difference of equal terms.
inline Rounded round_bf16_directed(double x, int toward, double term = 0) {
  const double q = bf16_ulp(x), n = x / q, below = std::floor(n), above = std::ceil(n);
  const double edge = std::min(n - below, below + 1 - n) * q;
  const double margin = x == 0 && term == 0 ? kFar : edge / f32_ulp(std::max(std::abs(x), term));
  return toward < 0 ? Rounded{below * q, above * q, margin} : Rounded{above * q, below * q, margin};
}

/// Add form: (bits of f32 x + r) & 0xFFFF0000, r of 16 bits; the magnitude rounds up iff
/// r >= 0x10000 - low bits. Infinities and NaN stay; a carry out of the largest value stays at it.
inline Rounded round_bf16_stochastic(double x, std::uint32_t r) {
  if (!std::isfinite(x)) {
    return {x, x, kFar};
  }
  const double q = bf16_ulp(x), n = std::abs(x) / q, below = std::floor(n);
  const double low = (n - below) * 65536, noise = r & 0xFFFFu;
  const bool up = std::nearbyint(low) + noise >= 65536;
  const double lower = std::copysign(below * q, x);
  const double upper = std::copysign(std::min((below + 1) * q, kBf16Max), x);
  const double margin = std::min(std::abs(low - (65536 - noise)), std::abs(low + noise));
  return {up ? upper : lower, up ? lower : upper, margin};
}

struct KahanBf16 {
  Rounded weight, carry;
};

/// One compensated bf16 step: `delta` is the whole signed change, decay included. `stored`: what
/// the kernel stored, to which the new carry belongs; otherwise the twin's own weight.
inline KahanBf16 kahan_bf16(double weight,
                            double carry,
                            double delta,
                            std::optional<double> stored = {}) {
  const double u = carry + delta;
  KahanBf16 out;
  out.weight = round_bf16(weight + u, std::max(std::abs(weight), std::abs(u)));
  const double rest = weight - stored.value_or(out.weight.value);
  out.carry = round_bf16(u + rest, std::max({std::abs(carry), std::abs(delta), std::abs(rest)}));
  return out;
}

/// Codes with a scale and a zero point for each group of consecutive elements.
struct IntQuantised {
  Bytes codes;
  Vec scale;
  Bytes zero;
  Vec margin;       // of codes, in f32 ulps of x / scale, or of its largest summand over scale
  Vec zero_margin;  // of zero points, likewise
};

enum class IntRange : std::uint8_t { with_zero, as_found };

/// Asymmetric: s = max(max - min, 1e-5) / (2^bits - 1), z = clamp(-round(min / s)),
/// q = clamp(round(x / s) + z). `with_zero` widens the range to hold 0. `noise` empty: nearest;
/// else floor(x / s) + [u < frac(x / s)]. `zero`: the kernel's zero points, else the twin's own.
/// `terms`: largest summand behind each x.
inline IntQuantised quantise_int(std::span<const double> x,
                                 int bits,
                                 std::size_t group,
                                 IntRange range = IntRange::with_zero,
                                 std::span<const double> noise = {},
                                 std::span<const std::uint8_t> zero = {},
                                 std::span<const double> terms = {}) {
  const double top = std::ldexp(1.0, bits) - 1;
  IntQuantised out;
  for (std::size_t start = 0; start < x.size(); start += group) {
    const std::span<const double> part = x.subspan(start, std::min(group, x.size() - start));
    double low = *std::min_element(part.begin(), part.end());
    double high = *std::max_element(part.begin(), part.end());
    if (range == IntRange::with_zero) {
      low = std::min(low, 0.0);
      high = std::max(high, 0.0);
    }
    const double scale = std::max(high - low, 1e-5) / top, lowest = low / scale;
    double z = std::clamp(-std::nearbyint(lowest), 0.0, top);
    out.zero_margin.push_back(std::abs(lowest - std::floor(lowest) - 0.5) / f32_ulp(lowest));
    if (!zero.empty()) {
      z = zero[start / group];
    }
    out.scale.push_back(scale);
    out.zero.push_back(static_cast<std::uint8_t>(z));
    for (std::size_t i = 0; i < part.size(); ++i) {
      const double n = part[i] / scale, below = std::floor(n);
      const double up_at = noise.empty() ? 0.5 : noise[start + i], rest = n - below;
      const double q = noise.empty() ? std::nearbyint(n) : below + (up_at < rest ? 1 : 0);
      const double edge = std::min(
          {std::abs(rest - up_at), std::abs(rest + 1 - up_at), std::abs(rest - 1 - up_at)});
      out.codes.push_back(static_cast<std::uint8_t>(std::clamp(q + z, 0.0, top)));
      const double term = terms.empty() ? 0 : terms[start + i] / scale;
      out.margin.push_back(edge / f32_ulp(std::max(std::abs(n), term)));
    }
  }
  return out;
}

inline Vec dequantise_int(std::span<const std::uint8_t> codes,
                          std::span<const double> scale,
                          std::span<const std::uint8_t> zero,
                          std::size_t group) {
  Vec x(codes.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = scale[i / group] * (static_cast<double>(codes[i]) - zero[i / group]);
  }
  return x;
}

}  // namespace strata::tests::twins
