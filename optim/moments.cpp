#include "optim/moments.h"

#include <algorithm>

#include "core/cpu/wide_lane.h"
#include "core/quant.h"
#include "core/quant_range.h"

namespace strata::optim {
namespace {

using quant::ZeroCode;

constexpr std::int64_t kBlock8 = 256, kBlock4 = 128, kGroupFp8 = 128;
constexpr std::int64_t kRangeValues = 3;  // of ExpandedRange
static_assert(kTile % kBlock8 == 0 && kTile % kBlock4 == 0 && kTile % kGroupFp8 == 0);

/// Largest magnitude of a block. Bits of magnitudes compare like the floats.
template <class F, std::int64_t Block>
float largest(const float* x) {
  using Int = LaneInt<F>;
  Int most(0);
  for (std::int64_t i = 0; i < Block; i += cpu::kLanesOf<F>) {
    F value;
    cpu::read(value, x + i);
    most = most_of(most, bits_of(value) & Int(0x7fffffff));
  }
  return float_of(cpu::greatest_lane(most));
}

/// Least magnitude but zero; of nothing but zeros any.
template <class F, std::int64_t Block>
float least_nonzero(const float* x) {
  using Int = LaneInt<F>;
  constexpr int kNone = 0x7fffffff;
  Int least(kNone);
  for (std::int64_t i = 0; i < Block; i += cpu::kLanesOf<F>) {
    F value;
    cpu::read(value, x + i);
    const Int size = bits_of(value) & Int(kNone);
    least = least_of(least, select(size == Int(0), Int(kNone), size));
  }
  return float_of(cpu::least_lane(least));
}

/// Scales whose reciprocal is a normal float; others are brought there by `shift` first, a power of
/// two.
struct Reciprocal {
  float shift, value;
  explicit Reciprocal(float scale)
      : shift(scale < 0x1p-60f ? 0x1p64f : (scale > 0x1p60f ? 0x1p-64f : 1.f)),
        value(scale == 0.f ? 0.f : 1.f / (scale * shift)) {}
};

// The coding of a block of kElements in kBytes bytes and a scale. The last block of a tensor is
// filled up with zeros.

template <class Code, ZeroCode Zero>
struct Bytewise {
  static constexpr std::int64_t kElements = kBlock8, kBytes = kBlock8;
  template <class F>
  static void decode(const std::uint8_t* codes, float scale, float* to) {
    for (std::int64_t i = 0; i < kElements; i += cpu::kLanesOf<F>) {
      LaneInt<F> code;
      cpu::read_bytes(code, codes + i);
      // Plus 0, so that a scale of 0 makes zeros without a sign.
      cpu::write(to + i, fma_(Code::template decode<F, Zero>(code), F(scale), F(0.f)));
    }
  }
  template <class F>
  static float encode(const float* from, std::uint8_t* codes) {
    const float scale = largest<F, kElements>(from);
    const Reciprocal by(scale);
    for (std::int64_t i = 0; i < kElements; i += cpu::kLanesOf<F>) {
      F value;
      cpu::read(value, from + i);
      cpu::write_bytes(codes + i, Code::encode(value * F(by.shift) * F(by.value)));
    }
    return scale;
  }
};

/// Two codes a byte, the even element in the high half.
template <class Code>
struct Halves {
  static constexpr std::int64_t kElements = kBlock4, kBytes = kBlock4 / 2;
  template <class F>
  static void decode(const std::uint8_t* codes, float scale, float* to) {
    for (std::int64_t i = 0; i < kBytes; i += cpu::kLanesOf<F>) {
      LaneInt<F> pair;
      cpu::read_bytes(pair, codes + i);
      const F even = Code::template decode<F>(pair >> 4),
              odd = Code::template decode<F>(pair & LaneInt<F>(15));
      cpu::write_pairs(to + 2 * i, fma_(even, F(scale), F(0.f)), fma_(odd, F(scale), F(0.f)));
    }
  }
  template <class F>
  static float encode(const float* from, std::uint8_t* codes) {
    using Int = LaneInt<F>;
    const float scale = largest<F, kElements>(from);
    const Reciprocal by(scale);
    for (std::int64_t i = 0; i < kBytes; i += cpu::kLanesOf<F>) {
      F even, odd;
      cpu::read_pairs(even, odd, from + 2 * i);
      const Int high = Code::encode(even * F(by.shift) * F(by.value));
      const Int low = Code::encode(odd * F(by.shift) * F(by.value));
      cpu::write_bytes(codes + i, (high << 4) | (low & Int(15)));
    }
    return scale;
  }
};

using Signed8 = Bytewise<quant::Dynamic8Signed, ZeroCode::zero>;
using Positive8 = Bytewise<quant::Dynamic8Unsigned, ZeroCode::zero>;
// A second moment that rounded to zero would divide by eps where the first one did not.
using Floored8 = Bytewise<quant::Dynamic8Unsigned, ZeroCode::half_least>;
using Signed4 = Halves<quant::Dynamic4Signed>;
using Positive4 = Halves<quant::Linear4Unsigned>;

template <class Block>
void load_blocks(const std::uint8_t* codes, const float* scales, std::int64_t n, float* to) {
  constexpr std::int64_t kPerByte = Block::kElements / Block::kBytes;
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    std::int64_t at = 0;
    for (; at + Block::kElements <= n; at += Block::kElements) {
      Block::template decode<F>(codes + at / kPerByte, scales[at / Block::kElements], to + at);
    }
    if (at < n) {
      std::uint8_t bytes[Block::kBytes] = {};
      float values[Block::kElements];
      std::copy(codes + at / kPerByte, codes + (n + kPerByte - 1) / kPerByte, bytes);
      Block::template decode<F>(bytes, scales[at / Block::kElements], values);
      std::copy(values, values + (n - at), to + at);
    }
  });
}

template <class Block>
void store_blocks(const float* from, std::int64_t n, std::uint8_t* codes, float* scales) {
  constexpr std::int64_t kPerByte = Block::kElements / Block::kBytes;
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    std::int64_t at = 0;
    for (; at + Block::kElements <= n; at += Block::kElements) {
      scales[at / Block::kElements] = Block::template encode<F>(from + at, codes + at / kPerByte);
    }
    if (at < n) {
      std::uint8_t bytes[Block::kBytes];
      float values[Block::kElements] = {};
      std::copy(from + at, from + n, values);
      scales[at / Block::kElements] = Block::template encode<F>(values, bytes);
      std::copy(bytes, bytes + (n - at + kPerByte - 1) / kPerByte, codes + at / kPerByte);
      if (n % kPerByte != 0) {
        codes[n / kPerByte] &= 0xf0;  // nobody's half
      }
    }
  });
}

constexpr std::int64_t kGroups = kTile / kGroupFp8;

void load_fp8(const std::uint8_t* codes, const float* ranges, std::int64_t n, float* to) {
  const std::int64_t groups = (n + kGroupFp8 - 1) / kGroupFp8;
  quant::ExpandedRange range[kGroups];
  for (std::int64_t g = 0; g < kGroups; ++g) {
    const float* const from = ranges + g * kRangeValues;
    if (g < groups && from[0] > 0.f) {
      range[g] = {from[0], from[1], from[2]};
    } else {
      range[g] = {1.f, 1.f, 1.f};
    }
  }
  quant::ExpandedDecoder decoders[kGroups];
  cpu::simd([&] {
    quant::ExpandedDecoder::Exponents exponents[kGroups];
    for (std::int64_t g = 0; g < kGroups; ++g) {
      exponents[g] = quant::ExpandedDecoder::Exponents::of(range[g]);
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      ranges[g * kRangeValues] > 0.f ? decoders[g].make(exponents[g]) : decoders[g].make_zero();
    }
  });
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    const auto decode = [](const std::uint8_t* from, const auto& decoder, float* values) {
      for (std::int64_t i = 0; i < kGroupFp8; i += cpu::kLanesOf<F>) {
        LaneInt<F> code;
        cpu::read_bytes(code, from + i);
        cpu::write(values + i, decoder.template decode<F>(code));
      }
    };
    std::int64_t at = 0;
    for (; at + kGroupFp8 <= n; at += kGroupFp8) {
      decode(codes + at, decoders[at / kGroupFp8], to + at);
    }
    if (at < n) {
      std::uint8_t bytes[kGroupFp8] = {};
      float values[kGroupFp8];
      std::copy(codes + at, codes + n, bytes);
      decode(bytes, decoders[at / kGroupFp8], values);
      std::copy(values, values + (n - at), to + at);
    }
  });
}

void store_fp8(const float* from, std::int64_t n, std::uint8_t* codes, float* ranges) {
  const std::int64_t groups = (n + kGroupFp8 - 1) / kGroupFp8, whole = n / kGroupFp8;
  float least[kGroups] = {}, most[kGroups] = {}, last[kGroupFp8] = {};
  std::copy(from + whole * kGroupFp8, from + n, last);
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const float* const x = g < whole ? from + g * kGroupFp8 : last;
      least[g] = least_nonzero<F, kGroupFp8>(x);
      most[g] = largest<F, kGroupFp8>(x);
      least[g] = most[g] > 0.f ? least[g] : 0.f;
    }
  });
  float scale[kGroups], power[kGroups], centre[kGroups];
  float sixteenths[kGroups], part_shift[kGroups];
  std::int32_t steps[kGroups], whole_shift[kGroups];
  cpu::simd([&] {
#pragma GCC ivdep
    for (std::int64_t g = 0; g < kGroups; ++g) {
      const auto range = quant::ExpandedRange::of(least[g], most[g]);
      const auto encoder = quant::ExpandedEncoder::of(range);
      scale[g] = range.scale, power[g] = range.power, centre[g] = range.centre;
      sixteenths[g] = encoder.power, part_shift[g] = encoder.part;
      steps[g] = encoder.steps, whole_shift[g] = encoder.whole;
    }
  });
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto range = most[g] > 0.f ? quant::ExpandedRange{scale[g], power[g], centre[g]}
                                     : quant::ExpandedRange::zero();
    float* const to = ranges + g * kRangeValues;
    to[0] = range.scale, to[1] = range.power, to[2] = range.centre;
  }
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    const auto encode = [](const float* values, const auto& encoder, std::uint8_t* to) {
      for (std::int64_t i = 0; i < kGroupFp8; i += cpu::kLanesOf<F>) {
        F value;
        cpu::read(value, values + i);
        cpu::write_bytes(to + i, encoder.template encode<F>(value));
      }
    };
    const auto encoder = [&](std::int64_t g) {
      return quant::ExpandedEncoder{sixteenths[g], part_shift[g], steps[g], whole_shift[g]};
    };
    for (std::int64_t g = 0; g < whole; ++g) {
      encode(from + g * kGroupFp8, encoder(g), codes + g * kGroupFp8);
    }
    if (whole < groups) {
      std::uint8_t bytes[kGroupFp8];
      encode(last, encoder(whole), bytes);
      std::copy(bytes, bytes + n % kGroupFp8, codes + whole * kGroupFp8);
    }
  });
}

}  // namespace

std::int64_t codec_block(StateCodec codec) {
  switch (codec) {
    case StateCodec::f32:
    case StateCodec::bf16:
      return 1;
    case StateCodec::dynamic8:
      return kBlock8;
    case StateCodec::dynamic4:
      return kBlock4;
    case StateCodec::fp8:
      return kGroupFp8;
  }
  return 1;
}

void add_moment_fields(StateLayout& layout,
                       StateCodec codec,
                       const Moment& moment,
                       std::int64_t numel) {
  const std::string name(moment.name);
  const auto add = [&](const std::string& field, DType dtype, std::int64_t unit, std::int64_t per) {
    if (numel < 0) {
      layout.push_back({field, dtype, Granularity::blocks_of(unit), per});
    } else {
      layout.push_back({field, dtype, Granularity::whole(), (numel + unit - 1) / unit * per});
    }
  };
  switch (codec) {
    case StateCodec::f32:
      return add(name, DType::f32, 1, 1);
    case StateCodec::bf16:
      return add(name, DType::bf16, 1, 1);
    case StateCodec::dynamic8:
      add(name + ".codes", DType::u8, 1, 1);
      return add(name + ".scale", DType::f32, kBlock8, 1);
    case StateCodec::dynamic4:
      add(name + ".codes", DType::u8, 2, 1);
      return add(name + ".scale", DType::f32, kBlock4, 1);
    case StateCodec::fp8:
      add(name + ".codes", DType::u8, 1, 1);
      return add(name + ".range", DType::f32, kGroupFp8, kRangeValues);
  }
}

CodedMoment::CodedMoment(StateCodec codec,
                         const Moment& moment,
                         StateViews& state,
                         const RandomKey& key,
                         std::int64_t first,
                         ZeroCode zero)
    : codec_(codec), positive_(moment.positive), zero_(zero), key_(key), first_(first) {
  const std::string name(moment.name);
  if (codec == StateCodec::f32 || codec == StateCodec::bf16) {
    values_ = state[name];
  } else {
    values_ = state[name + ".codes"];
    scales_ = state[name + (codec == StateCodec::fp8 ? ".range" : ".scale")];
  }
}

void CodedMoment::load(std::int64_t begin, std::int64_t n, float* to) const {
  switch (codec_) {
    case StateCodec::f32: {
      const float* const from = values_.data<float>() + begin;
      std::copy(from, from + n, to);
      return;
    }
    case StateCodec::bf16: {
      const bf16* const from = values_.data<bf16>() + begin;
      return cpu::simd([&] { std::transform(from, from + n, to, to_float); });
    }
    case StateCodec::dynamic8: {
      const auto* const codes = values_.data<std::uint8_t>() + begin;
      const float* const scales = scales_.data<float>() + begin / kBlock8;
      if (positive_ && zero_ == ZeroCode::half_least) {
        return load_blocks<Floored8>(codes, scales, n, to);
      }
      return positive_ ? load_blocks<Positive8>(codes, scales, n, to)
                       : load_blocks<Signed8>(codes, scales, n, to);
    }
    case StateCodec::dynamic4: {
      const auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      const float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? load_blocks<Positive4>(codes, scales, n, to)
                       : load_blocks<Signed4>(codes, scales, n, to);
    }
    case StateCodec::fp8:
      return load_fp8(values_.data<std::uint8_t>() + begin,
                      scales_.data<float>() + begin / kGroupFp8 * kRangeValues,
                      n,
                      to);
  }
}

void CodedMoment::store(std::int64_t begin, std::int64_t n, const float* from) const {
  switch (codec_) {
    case StateCodec::f32:
      std::copy(from, from + n, values_.data<float>() + begin);
      return;
    case StateCodec::bf16: {
      bf16* const to = values_.data<bf16>() + begin;
      if (!positive_) {
        return cpu::simd([&] {
          for (std::int64_t i = 0; i < n; ++i) {
            to[i] = to_bf16(from[i]);
          }
        });
      }
      TileNoise noise;
      draw_noise(key_, first_ + begin, n, noise);
      return cpu::simd([&] {
        for (std::int64_t i = 0; i < n; ++i) {
          to[i] = to_bf16_stochastic(from[i], noise[static_cast<std::size_t>(i)]);
        }
      });
    }
    case StateCodec::dynamic8: {
      auto* const codes = values_.data<std::uint8_t>() + begin;
      float* const scales = scales_.data<float>() + begin / kBlock8;
      return positive_ ? store_blocks<Positive8>(from, n, codes, scales)
                       : store_blocks<Signed8>(from, n, codes, scales);
    }
    case StateCodec::dynamic4: {
      auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? store_blocks<Positive4>(from, n, codes, scales)
                       : store_blocks<Signed4>(from, n, codes, scales);
    }
    case StateCodec::fp8:
      return store_fp8(from,
                       n,
                       values_.data<std::uint8_t>() + begin,
                       scales_.data<float>() + begin / kGroupFp8 * kRangeValues);
  }
}

}  // namespace strata::optim
