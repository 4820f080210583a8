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

float largest_of(const float* x, std::int64_t n) {
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return std::bit_cast<float>(most);
}

float least_nonzero(const float* x, std::int64_t n) {
  std::uint32_t least = 0x7fffffffu;  // after subtracting one, zeros come last
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = (std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu) - 1u;
    least = bits < least ? bits : least;
  }
  return std::bit_cast<float>(least + 1u);
}

template <class F, class Code, ZeroCode Zero>
void decode_block(const std::uint8_t* codes, float scale, float* to) {
  for (std::int64_t i = 0; i < kBlock8; i += cpu::kLanesOf<F>) {
    LaneInt<F> code;
    cpu::read_bytes(code, codes + i);
    // Plus 0, so that a scale of 0 makes zeros without a sign.
    cpu::write(to + i, fma_(Code::template decode<F, Zero>(code), F(scale), F(0.f)));
  }
}

/// Scales whose reciprocal is a normal float; others are brought there by `shift` first, a power of
/// two.
struct Reciprocal {
  float shift, value;
  explicit Reciprocal(float scale)
      : shift(scale < 0x1p-60f ? 0x1p64f : (scale > 0x1p60f ? 0x1p-64f : 1.f)),
        value(scale == 0.f ? 0.f : 1.f / (scale * shift)) {}
};

template <class F, class Code>
float encode_block(const float* from, std::uint8_t* codes) {
  const float scale = largest<F, kBlock8>(from);
  const Reciprocal by(scale);
  for (std::int64_t i = 0; i < kBlock8; i += cpu::kLanesOf<F>) {
    F value;
    cpu::read(value, from + i);
    cpu::write_bytes(codes + i, Code::encode(value * F(by.shift) * F(by.value)));
  }
  return scale;
}

template <class Code, ZeroCode Zero>
void load8(const std::uint8_t* codes, const float* scales, std::int64_t n, float* to) {
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    std::int64_t at = 0;
    for (; at + kBlock8 <= n; at += kBlock8) {
      decode_block<F, Code, Zero>(codes + at, scales[at / kBlock8], to + at);
    }
    if (at < n) {
      std::uint8_t bytes[kBlock8] = {};
      float values[kBlock8];
      std::copy(codes + at, codes + n, bytes);
      decode_block<F, Code, Zero>(bytes, scales[at / kBlock8], values);
      std::copy(values, values + (n - at), to + at);
    }
  });
}

template <class Code>
void store8(const float* from, std::int64_t n, std::uint8_t* codes, float* scales) {
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    std::int64_t at = 0;
    for (; at + kBlock8 <= n; at += kBlock8) {
      scales[at / kBlock8] = encode_block<F, Code>(from + at, codes + at);
    }
    if (at < n) {
      std::uint8_t bytes[kBlock8];
      float values[kBlock8] = {};
      std::copy(from + at, from + n, values);
      scales[at / kBlock8] = encode_block<F, Code>(values, bytes);
      std::copy(bytes, bytes + (n - at), codes + at);
    }
  });
}

// Two codes a byte, the even element in the high half.
template <class Code>
void load4(const std::uint8_t* codes, const float* scales, std::int64_t n, float* to) {
  cpu::simd([&] {
    for (std::int64_t at = 0; at < n; at += kBlock4) {
      const std::int64_t count = std::min(kBlock4, n - at);
      const float scale = scales[at / kBlock4];
      const std::uint8_t* const bytes = codes + at / 2;
      if (scale == 0.f) {
        std::fill(to + at, to + at + count, 0.f);
        continue;
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const int code = (bytes[i / 2] >> (i % 2 == 0 ? 4 : 0)) & 15;
        to[at + i] = Code::decode(code) * scale;
      }
    }
  });
}

template <class Code>
void store4(const float* from, std::int64_t n, std::uint8_t* codes, float* scales) {
  cpu::simd([&] {
    std::uint8_t wide[kBlock4 + 1];
    for (std::int64_t at = 0; at < n; at += kBlock4) {
      const std::int64_t count = std::min(kBlock4, n - at);
      float scale = 0.f;
      for (std::int64_t i = 0; i < count; ++i) {
        scale = std::max(scale, std::abs(from[at + i]));
      }
      scales[at / kBlock4] = scale;
      if (scale == 0.f) {
        std::fill(wide, wide + count, static_cast<std::uint8_t>(Code::kZero));
      } else {
        const Reciprocal by(scale);
        for (std::int64_t i = 0; i < count; ++i) {
          wide[i] = static_cast<std::uint8_t>(Code::encode(from[at + i] * by.shift * by.value));
        }
      }
      wide[count] = 0;
      for (std::int64_t i = 0; i < (count + 1) / 2; ++i) {
        codes[at / 2 + i] = static_cast<std::uint8_t>(wide[2 * i] << 4 | wide[2 * i + 1]);
      }
    }
  });
}

void load_fp8(const std::uint8_t* codes, const float* ranges, std::int64_t n, float* to) {
  cpu::simd([&] {
    for (std::int64_t at = 0; at < n; at += kGroupFp8) {
      const float* const range = ranges + at / kGroupFp8 * kRangeValues;
      const quant::ExpandedCoder coder({range[0], range[1], range[2]});
      const std::int64_t count = std::min(kGroupFp8, n - at);
      for (std::int64_t i = 0; i < count; ++i) {
        to[at + i] = coder.decode(codes[at + i]);
      }
    }
  });
}

void store_fp8(const float* from, std::int64_t n, std::uint8_t* codes, float* ranges) {
  cpu::simd([&] {
    for (std::int64_t at = 0; at < n; at += kGroupFp8) {
      const std::int64_t count = std::min(kGroupFp8, n - at);
      const auto range =
          quant::ExpandedRange::of(least_nonzero(from + at, count), largest_of(from + at, count));
      float* const to = ranges + at / kGroupFp8 * kRangeValues;
      to[0] = range.scale, to[1] = range.power, to[2] = range.centre;
      const quant::ExpandedCoder coder(range);
      for (std::int64_t i = 0; i < count; ++i) {
        codes[at + i] = static_cast<std::uint8_t>(coder.encode(from[at + i]));
      }
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
                         std::int64_t first)
    : codec_(codec), positive_(moment.positive), key_(key), first_(first) {
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
      return positive_ ? load8<quant::Dynamic8Unsigned, ZeroCode::half_least>(codes, scales, n, to)
                       : load8<quant::Dynamic8Signed, ZeroCode::zero>(codes, scales, n, to);
    }
    case StateCodec::dynamic4: {
      const auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      const float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? load4<quant::Linear4Unsigned>(codes, scales, n, to)
                       : load4<quant::Dynamic4Signed>(codes, scales, n, to);
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
      return positive_ ? store8<quant::Dynamic8Unsigned>(from, n, codes, scales)
                       : store8<quant::Dynamic8Signed>(from, n, codes, scales);
    }
    case StateCodec::dynamic4: {
      auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? store4<quant::Linear4Unsigned>(from, n, codes, scales)
                       : store4<quant::Dynamic4Signed>(from, n, codes, scales);
    }
    case StateCodec::fp8:
      return store_fp8(from,
                       n,
                       values_.data<std::uint8_t>() + begin,
                       scales_.data<float>() + begin / kGroupFp8 * kRangeValues);
  }
}

}  // namespace strata::optim
