#pragma once
#include "tests/support/twins/formats.h"

namespace strata::tests::twins {

/// Dynamic code book: for i < levels, 2^i (unsigned 2^(i+1)) midpoints of equal parts of [0.1, 1]
/// times 10^(i + 1 - levels), negated too where signed, with 0 and 1. Entries are f32, ascending.
inline Vec dynamic_table(int levels, bool is_signed) {
  Vec table{0, 1};
  for (int i = 0; i < levels; ++i) {
    const int parts = 1 << (is_signed ? i : i + 1);
    for (int j = 0; j < parts; ++j) {
      const double middle = (0.1 + 0.9 * (j + 0.5) / parts) * std::pow(10.0, i + 1 - levels);
      const double entry = static_cast<double>(static_cast<float>(middle));
      table.push_back(entry);
      if (is_signed) {
        table.push_back(-entry);
      }
    }
  }
  std::sort(table.begin(), table.end());
  return table;
}

inline const Vec& signed_8bit() {
  static const Vec table = dynamic_table(7, true);
  return table;
}
inline const Vec& unsigned_8bit() {
  static const Vec table = dynamic_table(7, false);
  return table;
}
inline const Vec& signed_4bit() {
  static const Vec table = dynamic_table(3, true);
  return table;
}
/// 1/16 ... 16/16, no zero.
inline const Vec& unsigned_4bit() {
  static const Vec table = [] {
    Vec t(16);
    for (std::size_t i = 0; i < 16; ++i) {
      t[i] = static_cast<double>(i + 1) / 16;
    }
    return t;
  }();
  return table;
}
inline const Vec& nf4() {
  static const Vec table{-1,
                         -0.6961928009986877,
                         -0.5250730514526367,
                         -0.39491748809814453,
                         -0.28444138169288635,
                         -0.18477343022823334,
                         -0.09105003625154495,
                         0,
                         0.07958029955625534,
                         0.16093020141124725,
                         0.24611230194568634,
                         0.33791524171829224,
                         0.44070982933044434,
                         0.5626170039176941,
                         0.7229568362236023,
                         1};
  return table;
}
/// By code: bit 3 is the sign, so not ascending; code 8 is -0.
inline const Vec& fp4() {
  static const Vec table = [] {
    const double twelfths[] = {0, 0.0625, 8, 12, 4, 6, 2, 3};
    Vec t(16);
    for (std::size_t i = 0; i < 16; ++i) {
      t[i] = (i < 8 ? 1 : -1) * twelfths[i % 8] / 12;
    }
    return t;
  }();
  return table;
}

struct Nearest {
  std::size_t index = 0;
  double margin = kFar;       // to the nearest midpoint, in f32 ulps of x
  double term_margin = kFar;  // in f32 ulps of the largest summand that made x
};

/// Nearest entry of an ascending table; an exact midpoint goes to the higher index.
inline Nearest nearest(std::span<const double> table, double x, double term = 0) {
  Nearest out;
  while (out.index + 1 < table.size() && x >= (table[out.index] + table[out.index + 1]) / 2) {
    ++out.index;
  }
  double edge = kFar;
  if (out.index > 0) {
    edge = std::abs(x - (table[out.index - 1] + table[out.index]) / 2);
  }
  if (out.index + 1 < table.size()) {
    edge = std::min(edge, std::abs(x - (table[out.index] + table[out.index + 1]) / 2));
  }
  out.margin = edge / f32_ulp(x);
  out.term_margin = edge / f32_ulp(std::max(std::abs(x), term));
  return out;
}

/// The code of the nearest fp4 value. Zero is code 0, whatever its sign.
inline Nearest nearest_fp4(double x) {
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t code = 0; code < 16; ++code) {
    if (code != 8) {
      order.emplace_back(fp4()[code], code);
    }
  }
  std::sort(order.begin(), order.end());
  Vec ascending;
  for (const auto& entry : order) {
    ascending.push_back(entry.first);
  }
  Nearest out = nearest(ascending, x);
  out.index = order[out.index].second;
  return out;
}

/// E4M3 fn: largest 448 (0x7E), smallest 2^-9, 0x7F is NaN.
inline double decode_e4m3(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

struct E4m3 {
  std::uint8_t code = 0;
  double edge = kFar;  // |y| to the nearest place where the code changes
};

/// Nearest even, saturating at 448.
inline E4m3 encode_e4m3(double y) {
  const double size = std::abs(y);
  const int exponent = size == 0 ? -6 : std::clamp(std::ilogb(size), -6, 8);
  const double q = std::ldexp(1.0, exponent - 3), n = size / q;
  E4m3 out;
  const bool at_top = exponent == 8 && n >= 14;
  const double steps = at_top ? 14 : std::nearbyint(n);
  out.edge = (at_top ? n - 13.5 : std::abs(n - std::floor(n) - 0.5)) * q;
  // Codes of one sign are consecutive: 8 per binade, and 16 steps are the next binade's first code.
  const int code = (exponent + 6) * 8 + static_cast<int>(steps);
  out.code = static_cast<std::uint8_t>(code | (std::signbit(y) && code != 0 ? 0x80 : 0));
  return out;
}

/// A group of at most 128 elements in E4M3 with expanded range.
struct ExpandedGroup {
  double scale = 0, exponent = 1, centre = 1;
  Bytes codes;
  Vec margin;  // ulps of |x| / c ^ k / s, or of x at the flip, whichever are less
  // log2(M / least) to the nearest flip of k, in the ulps that its error is counted in: its own,
  // one of the ratio, and that of the summands behind the least magnitude.
  double exponent_margin = kFar;
  double centre_ulp =
      0;  // relative change of c by one ulp of those summands; s c^k does not change
};

/// M = max + 1e-30 and the least non-zero magnitude + 1e-30 span 448^2 / 2 after the power
/// k = floor(16 log2(448^2 / 2) / log2(M / least)) / 16 <= 64; code = E4M3((|x| / c)^k / s). A
/// group of one magnitude has k = 1, an all-zero group codes 0 and scale 0. `exponent`: the
/// kernel's k. `terms`: largest summand behind each x.
inline ExpandedGroup quantise_expanded(std::span<const double> x,
                                       std::optional<double> exponent = {},
                                       std::span<const double> terms = {}) {
  double largest = 0, least = kFar, least_term = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double size = std::abs(x[i]);
    if (size > 0 && size < least) {
      least = size;
      least_term = std::max(size, terms.empty() ? 0 : terms[i]);
    }
    largest = std::max(largest, size);
  }
  ExpandedGroup out;
  out.codes.assign(x.size(), 0);
  out.margin.assign(x.size(), kFar);
  if (largest == 0) {
    return out;
  }
  largest += 1e-30;
  least += 1e-30;
  const double least_ulp = f32_ulp(least_term) / least;
  out.centre_ulp = least_ulp / 2;
  const double span = std::log2(largest / least);
  const double numerator = 16 * std::log2(448.0 * 448.0 / 2);
  const double steps = numerator / span;  // k in sixteenths before the floor
  if (span > 0) {
    out.exponent = std::min(std::floor(steps) / 16, 64.0);
    double edge = span;
    for (const double flip : {std::floor(steps), std::floor(steps) + 1}) {
      if (flip <= 64 * 16) {
        edge = std::min(edge, std::abs(span - numerator / flip));
      }
    }
    out.exponent_margin = edge / std::max({f32_ulp(span), 0x1p-23, least_ulp / std::log(2.0)});
  }
  out.exponent = exponent.value_or(out.exponent);
  out.centre = std::sqrt(largest) * std::sqrt(least);
  out.scale = std::pow(largest / out.centre, out.exponent) / 448;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] == 0) {
      continue;
    }
    const double y = std::pow(std::abs(x[i]) / out.centre, out.exponent) / out.scale;
    const E4m3 code = encode_e4m3(std::copysign(y, x[i]));
    out.codes[i] = code.code;
    const double at_x = code.edge / y / out.exponent * std::abs(x[i]) / f32_ulp(x[i]);
    out.margin[i] = std::min(code.edge / f32_ulp(y), at_x);
  }
  return out;
}

inline double dequantise_expanded(std::uint8_t code, double scale, double exponent, double centre) {
  const double value = decode_e4m3(code);
  if (value == 0 || scale == 0) {
    return 0;
  }
  return std::copysign(std::pow(std::abs(value) * scale, 1 / exponent) * centre, value);
}

/// M of a stored group, whatever its centre: what two groups of equal k can be compared by.
inline double largest_of(double scale, double exponent, double centre) {
  return scale == 0 ? 0 : std::pow(448 * scale, 1 / exponent) * centre;
}

/// Two per byte, the even element in the high nibble; an odd end is padded with 0.
inline Bytes pack_nibbles(std::span<const std::uint8_t> codes) {
  Bytes packed((codes.size() + 1) / 2);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const int shifted = i % 2 == 0 ? codes[i] << 4 : codes[i];
    packed[i / 2] = static_cast<std::uint8_t>(packed[i / 2] | shifted);
  }
  return packed;
}
inline std::uint8_t nibble(std::span<const std::uint8_t> packed, std::size_t i) {
  return static_cast<std::uint8_t>(i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15);
}

/// The error of one quantisation block in 4 bits: u = (max - min) / 15, floor((x - min) / u + 1/2).
struct ErrorBlock {
  Rounded low, high;  // bf16, low rounded down and high up
  Bytes codes;        // one per element
  Vec margin;         // f32 ulps of the code before its floor, or of its largest summand over u
};

/// `range`: the kernel's stored {low, high}. `terms`: largest summand behind each x. `shift`: what
/// is added before the floor, 1/2 unless given (uniform noise rounds stochastically).
inline ErrorBlock quantise_error(std::span<const double> x,
                                 std::optional<std::pair<double, double>> range = {},
                                 std::span<const double> terms = {},
                                 std::span<const double> shift = {}) {
  const auto term = [&](std::size_t i) { return terms.empty() ? 0.0 : terms[i]; };
  const double least = *std::min_element(x.begin(), x.end());
  const double most = *std::max_element(x.begin(), x.end());
  double low_term = 0, high_term = 0;  // of equal ones, that of the least certain
  for (std::size_t i = 0; i < x.size(); ++i) {
    low_term = x[i] == least ? std::max(low_term, term(i)) : low_term;
    high_term = x[i] == most ? std::max(high_term, term(i)) : high_term;
  }
  ErrorBlock out;
  out.low = round_bf16_directed(least, -1, low_term);
  out.high = round_bf16_directed(most, +1, high_term);
  const double low = range ? range->first : out.low.value;
  const double unit = ((range ? range->second : out.high.value) - low) / 15;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (unit == 0) {
      out.codes.push_back(0);
      out.margin.push_back(kFar);
      continue;
    }
    const double n = (x[i] - low) / unit + (shift.empty() ? 0.5 : shift[i]);
    const double edge = std::min(n - std::floor(n), std::floor(n) + 1 - n);
    const double summand = std::max({std::abs(x[i]), std::abs(low), term(i)});
    out.codes.push_back(static_cast<std::uint8_t>(std::clamp(std::floor(n), 0.0, 15.0)));
    out.margin.push_back(edge / std::max(f32_ulp(n), f32_ulp(summand) / unit));
  }
  return out;
}

inline double dequantise_error(std::uint8_t code, double low, double high) {
  return code * ((high - low) / 15) + low;
}

}  // namespace strata::tests::twins
