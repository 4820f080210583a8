#pragma once
#include "tests/support/twins/codes.h"

namespace strata::tests::twins {

enum class Codec : std::uint8_t { f32, bf16, dynamic8, four_bit, fp8 };
enum class Sign : std::uint8_t { both, positive };

/// One moment as it is stored. f32 and bf16 use `values` alone; dynamic8 has a code for each
/// element and a scale for each 256; four_bit has nibbles and a scale for each 128; fp8 has E4M3
/// codes and (scale, exponent, centre) for each 128. Zero bytes decode to zeros.
struct Moment {
  Codec codec = Codec::f32;
  Sign sign = Sign::both;
  std::size_t numel = 0;
  Vec values;
  Bytes codes;
  Vec scale;
  Vec range;
};

inline std::size_t block_of(Codec codec) {
  return codec == Codec::dynamic8 ? 256 : 128;
}

inline Moment zero_moment(Codec codec, Sign sign, std::size_t numel) {
  const std::size_t blocks = (numel + block_of(codec) - 1) / block_of(codec);
  Moment out{codec, sign, numel, {}, {}, {}, {}};
  switch (codec) {
    case Codec::f32:
    case Codec::bf16:
      out.values.assign(numel, 0);
      break;
    case Codec::dynamic8:
      out.codes.assign(numel, 0);
      out.scale.assign(blocks, 0);
      break;
    case Codec::four_bit:
      out.codes.assign((numel + 1) / 2, 0);
      out.scale.assign(blocks, 0);
      break;
    case Codec::fp8:
      out.codes.assign(numel, 0);
      out.range.assign(3 * blocks, 0);
      break;
  }
  return out;
}

/// Code book of a block codec.
inline const Vec& table_of(Codec codec, Sign sign) {
  if (codec == Codec::dynamic8) {
    return sign == Sign::both ? signed_8bit() : unsigned_8bit();
  }
  return sign == Sign::both ? signed_4bit() : unsigned_4bit();
}

/// `floor`: a positive dynamic8 code of 0 reads as half the smallest positive entry.
enum class ZeroCode : std::uint8_t { exact, floor };

inline Vec decode(const Moment& moment, ZeroCode zero = ZeroCode::exact) {
  if (moment.codec == Codec::f32 || moment.codec == Codec::bf16) {
    return moment.values;
  }
  const std::size_t block = block_of(moment.codec);
  Vec out(moment.numel);
  for (std::size_t i = 0; i < moment.numel; ++i) {
    const std::size_t j = i / block;
    if (moment.codec == Codec::fp8) {
      const double* range = &moment.range[3 * j];
      out[i] = dequantise_expanded(moment.codes[i], range[0], range[1], range[2]);
      continue;
    }
    const Vec& table = table_of(moment.codec, moment.sign);
    const bool wide = moment.codec == Codec::dynamic8;
    double entry = table[wide ? moment.codes[i] : nibble(moment.codes, i)];
    if (zero == ZeroCode::floor && wide && moment.sign == Sign::positive && entry == 0) {
      entry = table[1] / 2;
    }
    out[i] = moment.scale[j] == 0 ? 0 : entry * moment.scale[j];
  }
  return out;
}

struct Encoded {
  Moment state;
  Vec margin;           // per element, in f32 ulps of the compared value; empty for f32
  Vec term_margin;      // in f32 ulps of the largest summand that made it (cancellation)
  Vec exponent_margin;  // fp8: per group
  Vec centre_ulp;       // fp8: per group, the relative slack of c that one ulp of a summand makes
};

/// Of the reference's kernel: a code whose sign is not the value's moves one place.
enum class SignGuard : std::uint8_t { off, on };

struct EncodeOptions {
  SignGuard guard = SignGuard::off;
  std::span<const double> exponents;  // fp8: the kernel's, one per group
};

namespace detail {

inline void encode_block(std::span<const double> x,
                         std::span<const double> terms,
                         const Vec& table,
                         SignGuard guard,
                         Encoded& out,
                         Bytes& codes) {
  double largest = 0;
  for (const double value : x) {
    largest = std::max(largest, std::abs(value));
  }
  out.state.scale.push_back(largest);
  const std::size_t zero = nearest(table, 0.0).index;
  for (std::size_t i = 0; i < x.size(); ++i) {
    Nearest code{zero, kFar, kFar};
    if (largest > 0) {
      code = nearest(table, x[i] / largest, terms.empty() ? 0 : terms[i] / largest);
      if (guard == SignGuard::on && (table[code.index] < 0) != (x[i] < 0)) {
        code.index += x[i] > 0 ? 1 : std::size_t(-1);
      }
    }
    codes.push_back(static_cast<std::uint8_t>(code.index));
    out.margin.push_back(code.margin);
    out.term_margin.push_back(code.term_margin);
  }
}

}  // namespace detail

/// `terms`: for each element the magnitude of the largest summand behind it, or empty.
inline Encoded encode(Codec codec,
                      Sign sign,
                      const Vec& x,
                      const Vec& terms = {},
                      const EncodeOptions& options = {}) {
  Encoded out;
  out.state = Moment{codec, sign, x.size(), {}, {}, {}, {}};
  if (codec == Codec::f32) {
    out.state.values = x;
    return out;
  }
  const std::size_t block = codec == Codec::bf16 ? x.size() : block_of(codec);
  Bytes codes;
  for (std::size_t start = 0; start < x.size(); start += block) {
    const std::size_t count = std::min(block, x.size() - start);
    const std::span<const double> part(&x[start], count);
    const std::span<const double> part_terms =
        terms.empty() ? std::span<const double>() : std::span<const double>(&terms[start], count);
    if (codec == Codec::bf16) {
      for (std::size_t i = 0; i < count; ++i) {
        const Rounded own = round_bf16(part[i]);
        out.state.values.push_back(own.value);
        out.margin.push_back(own.margin);
        out.term_margin.push_back(round_bf16(part[i], terms.empty() ? 0 : part_terms[i]).margin);
      }
    } else if (codec == Codec::fp8) {
      std::optional<double> exponent;
      if (!options.exponents.empty()) {
        exponent = options.exponents[start / block];
      }
      const ExpandedGroup group = quantise_expanded(part, exponent, part_terms);
      out.state.range.insert(out.state.range.end(), {group.scale, group.exponent, group.centre});
      codes.insert(codes.end(), group.codes.begin(), group.codes.end());
      out.exponent_margin.push_back(group.exponent_margin);
      out.centre_ulp.push_back(group.centre_ulp);
      for (std::size_t i = 0; i < count; ++i) {
        const double term = terms.empty() ? 0 : part_terms[i];
        const double wider = f32_ulp(part[i]) / f32_ulp(std::max(std::abs(part[i]), term));
        out.margin.push_back(group.margin[i]);
        out.term_margin.push_back(group.margin[i] * wider);
      }
    } else {
      detail::encode_block(part, part_terms, table_of(codec, sign), options.guard, out, codes);
    }
  }
  out.state.codes = codec == Codec::four_bit ? pack_nibbles(codes) : codes;
  return out;
}

}  // namespace strata::tests::twins
