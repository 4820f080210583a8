#include "optim/moments.h"

#include <algorithm>
#include <array>

#include "optim/coded_tile.h"

namespace strata::optim {
namespace {

using quant::ZeroCode;

constexpr std::int64_t kBlock8 = 256, kBlock4 = 128, kGroupFp8 = 128;
constexpr std::int64_t kRangeValues = 3;  // of ExpandedRange
static_assert(kTile % kBlock8 == 0 && kTile % kBlock4 == 0 && kTile % kGroupFp8 == 0);

/// Bytes of codes and numbers of blocks that n elements have.
template <class Codec>
struct Extent {
  std::int64_t bytes, numbers;
  explicit Extent(std::int64_t n)
      : bytes((n + Codec::kPerByte - 1) / Codec::kPerByte),
        numbers((n + Codec::kBlock - 1) / Codec::kBlock * Codec::kNumbers) {}
};

template <class Codec>
void load_tile(const std::uint8_t* codes, const float* numbers, float* to) {
  const typename Codec::Reader reader{codes, numbers};
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    for (std::int64_t b = 0; b < kTile / Codec::kBlock; ++b) {
      const auto block = reader.template block<F>(b);
      float* const values = to + b * Codec::kBlock;
      for (std::int64_t i = 0; i < Codec::kBlock; i += cpu::kLanesOf<F>) {
        cpu::write(values + i, block.read(i));
      }
    }
  });
}

template <class Codec>
void store_tile(const float* from, std::uint8_t* codes, float* numbers) {
  alignas(64) std::array<float, kTile> values;
  TileExtremes extremes;
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    for (std::int64_t block = 0; block < kTile / Codec::kBlock; ++block) {
      BlockExtremes<F, Codec::kNeedsLeast> of_block;
      const std::int64_t begin = block * Codec::kBlock;
      for (std::int64_t i = begin; i < begin + Codec::kBlock; i += cpu::kLanesOf<F>) {
        F value;
        cpu::read(value, from + i);
        of_block.take(value);
        cpu::write(values.data() + i, value);
      }
      of_block.put(extremes, block);
    }
  });
  write_tile<Codec>(values.data(), extremes, codes, numbers);
}

// The end of a tensor is worked on as a whole tile, filled up with zeros.

template <class Codec>
void load_coded(const std::uint8_t* codes, const float* numbers, std::int64_t n, float* to) {
  if (n == kTile) {
    return load_tile<Codec>(codes, numbers, to);
  }
  const Extent<Codec> extent(n);
  std::array<std::uint8_t, kTile> all_codes{};
  std::array<float, TileExtremes::kMostBlocks * Codec::kNumbers> all_numbers{};
  alignas(64) std::array<float, kTile> values;
  std::copy(codes, codes + extent.bytes, all_codes.begin());
  std::copy(numbers, numbers + extent.numbers, all_numbers.begin());
  load_tile<Codec>(all_codes.data(), all_numbers.data(), values.data());
  std::copy(values.begin(), values.begin() + n, to);
}

template <class Codec>
void store_coded(const float* from, std::int64_t n, std::uint8_t* codes, float* numbers) {
  if (n == kTile) {
    return store_tile<Codec>(from, codes, numbers);
  }
  const Extent<Codec> extent(n);
  std::array<std::uint8_t, kTile> all_codes;
  std::array<float, TileExtremes::kMostBlocks * Codec::kNumbers> all_numbers;
  alignas(64) std::array<float, kTile> values{};
  std::copy(from, from + n, values.begin());
  store_tile<Codec>(values.data(), all_codes.data(), all_numbers.data());
  std::copy(all_codes.begin(), all_codes.begin() + extent.bytes, codes);
  std::copy(all_numbers.begin(), all_numbers.begin() + extent.numbers, numbers);
  if (n % Codec::kPerByte != 0) {
    codes[n / Codec::kPerByte] &= 0xf0;  // nobody's half
  }
}

}  // namespace

Fp8Codec::Reader::Reader(const std::uint8_t* codes, const float* ranges) : codes_(codes) {
  quant::ExpandedRange range[kGroups];
  for (std::int64_t g = 0; g < kGroups; ++g) {
    const float* const from = ranges + g * kNumbers;
    range[g] = from[0] > 0.f ? quant::ExpandedRange{from[0], from[1], from[2]}
                             : quant::ExpandedRange{1.f, 1.f, 1.f};
  }
  cpu::simd([&] {
    quant::ExpandedDecoder::Exponents exponents[kGroups];
    for (std::int64_t g = 0; g < kGroups; ++g) {
      exponents[g] = quant::ExpandedDecoder::Exponents::of(range[g]);
    }
    for (std::int64_t g = 0; g < kGroups; ++g) {
      ranges[g * kNumbers] > 0.f ? decoders_[g].make(exponents[g]) : decoders_[g].make_zero();
    }
  });
}

Fp8Codec::Encoders::Encoders(const TileExtremes& extremes, float* ranges) {
  float scale[kGroups], exponent[kGroups], centre[kGroups];
  cpu::simd([&] {
#pragma GCC ivdep
    for (std::int64_t g = 0; g < kGroups; ++g) {
      const auto range = quant::ExpandedRange::of(extremes.least[g], extremes.most[g]);
      const auto encoder = quant::ExpandedEncoder::of(range);
      scale[g] = range.scale, exponent[g] = range.power, centre[g] = range.centre;
      power[g] = encoder.power, whole[g] = encoder.whole, part[g] = encoder.part;
    }
  });
  for (std::int64_t g = 0; g < kGroups; ++g) {
    const auto range = extremes.most[g] > 0.f
                           ? quant::ExpandedRange{scale[g], exponent[g], centre[g]}
                           : quant::ExpandedRange::zero();
    float* const to = ranges + g * kNumbers;
    to[0] = range.scale, to[1] = range.power, to[2] = range.centre;
  }
}

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
        return load_coded<Floored8>(codes, scales, n, to);
      }
      return positive_ ? load_coded<Positive8>(codes, scales, n, to)
                       : load_coded<Signed8>(codes, scales, n, to);
    }
    case StateCodec::dynamic4: {
      const auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      const float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? load_coded<Positive4>(codes, scales, n, to)
                       : load_coded<Signed4>(codes, scales, n, to);
    }
    case StateCodec::fp8:
      return load_coded<Fp8Codec>(values_.data<std::uint8_t>() + begin,
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
      return positive_ ? store_coded<Positive8>(from, n, codes, scales)
                       : store_coded<Signed8>(from, n, codes, scales);
    }
    case StateCodec::dynamic4: {
      auto* const codes = values_.data<std::uint8_t>() + begin / 2;
      float* const scales = scales_.data<float>() + begin / kBlock4;
      return positive_ ? store_coded<Positive4>(from, n, codes, scales)
                       : store_coded<Signed4>(from, n, codes, scales);
    }
    case StateCodec::fp8:
      return store_coded<Fp8Codec>(from,
                                   n,
                                   values_.data<std::uint8_t>() + begin,
                                   scales_.data<float>() + begin / kGroupFp8 * kRangeValues);
  }
}

}  // namespace strata::optim
