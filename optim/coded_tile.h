#pragma once
#include <algorithm>

#include "core/cpu/wide_lane.h"
#include "core/quant.h"
#include "core/quant_range.h"
#include "optim/tile.h"

namespace strata::optim {

/// Of the blocks of a tile, the largest magnitude and, where a codec asks for it, the least but
/// zero (0 in a block of zeros).
struct TileExtremes {
  static constexpr std::int64_t kMostBlocks = kTile / 128;
  float most[kMostBlocks], least[kMostBlocks];
};

/// Gathers the extremes of one block in lanes F, of values that may be below zero or not. Bits of
/// magnitudes compare like the floats.
template <class F, bool NeedsLeast, bool Signed = true>
class BlockExtremes {
 public:
  void take(const F& x) {
    const Int size = Signed ? bits_of(x) & Int(kNone) : bits_of(x);
    most_ = most_of(most_, size);
    if constexpr (NeedsLeast) {
      least_ = least_of(least_, select(size == Int(0), Int(kNone), size));
    }
  }
  void put(TileExtremes& to, std::int64_t block) const {
    to.most[block] = float_of(cpu::greatest_lane(most_));
    if constexpr (NeedsLeast) {
      to.least[block] = to.most[block] > 0.f ? float_of(cpu::least_lane(least_)) : 0.f;
    }
  }

 private:
  using Int = LaneInt<F>;
  static constexpr std::int32_t kNone = 0x7fffffff;
  Int most_ = Int(0), least_ = Int(kNone);
};

/// Divides by a scale, as far as a product with the reciprocal does. Neither a scale nor its
/// reciprocal may be subnormal: the values of another are multiplied by a power of two, in place.
struct Reciprocal {
  float value;
  Reciprocal(float scale, float* values, std::int64_t n) {
    const float shift = scale < 0x1p-60f ? 0x1p64f : (scale > 0x1p60f ? 0x1p-64f : 1.f);
    value = scale == 0.f ? 0.f : 1.f / (scale * shift);
    if (shift != 1.f) {
      std::transform(values, values + n, values, [&](float x) { return x * shift; });
    }
  }
};

// How a whole tile of a moment is kept: block(b) of Codec::Reader gives the values of as many
// elements of a block as F has lanes, from `i`; Codec::write codes values of which the extremes are
// known. Both inside bodies of cpu::with_lanes.

/// One code a byte, one scale a block.
template <class Code, quant::ZeroCode Zero>
struct ByteCodec {
  static constexpr std::int64_t kBlock = 256, kPerByte = 1, kNumbers = 1;  // numbers of a block
  static constexpr bool kNeedsLeast = false;
  struct Reader {
    const std::uint8_t* codes;
    const float* scales;
    template <class F>
    struct Block {
      const std::uint8_t* codes;
      typename Code::template Values<F, Zero> values;
      F read(std::int64_t i) const {
        LaneInt<F> code;
        cpu::read_bytes(code, codes + i, Code::kBase);
        return values.decode(code);
      }
    };
    template <class F>
    Block<F> block(std::int64_t b) const {
      return {codes + b * kBlock, typename Code::template Values<F, Zero>(scales[b])};
    }
  };
  template <class F>
  static void write(float* from, const TileExtremes& extremes, std::uint8_t* codes, float* scales) {
    for (std::int64_t block = 0; block < kTile / kBlock; ++block) {
      const std::int64_t begin = block * kBlock;
      const Reciprocal by(extremes.most[block], from + begin, kBlock);
      scales[block] = extremes.most[block];
#pragma GCC unroll 1
      for (std::int64_t i = begin; i < begin + kBlock; i += cpu::kLanesOf<F>) {
        F value;
        cpu::read(value, from + i);
        cpu::write_bytes(codes + i, Code::encode(value * F(by.value)));
      }
    }
  }
};

/// Two codes a byte, the even element in the high half.
template <class Code>
struct HalfCodec {
  static constexpr std::int64_t kBlock = 128, kPerByte = 2, kNumbers = 1;
  static constexpr bool kNeedsLeast = false;
  struct Reader {
    const std::uint8_t* codes;
    const float* scales;
    template <class F>
    struct Block {
      const std::uint8_t* codes;
      typename Code::template Values<F> values;
      F read(std::int64_t i) const {
        LaneInt<F> code;
        cpu::read_halves(code, codes, i);
        return values.decode(code);
      }
    };
    template <class F>
    Block<F> block(std::int64_t b) const {
      return {codes + b * kBlock / kPerByte, typename Code::template Values<F>(scales[b])};
    }
  };
  template <class F>
  static void write(float* from, const TileExtremes& extremes, std::uint8_t* codes, float* scales) {
    using Int = LaneInt<F>;
    for (std::int64_t block = 0; block < kTile / kBlock; ++block) {
      const std::int64_t begin = block * kBlock;
      const Reciprocal by(extremes.most[block], from + begin, kBlock);
      scales[block] = extremes.most[block];
#pragma GCC unroll 1
      for (std::int64_t i = begin; i < begin + kBlock; i += 2 * cpu::kLanesOf<F>) {
        F even, odd;
        cpu::read_pairs(even, odd, from + i);
        const Int high = Code::encode(even * F(by.value)), low = Code::encode(odd * F(by.value));
        cpu::write_bytes(codes + i / 2, (high << 4) | (low & Int(15)));
      }
    }
  }
};

/// E4M3 with expanded range: three numbers a group, of which those of a tile are computed side by
/// side.
struct Fp8Codec {
  static constexpr std::int64_t kBlock = 128, kPerByte = 1, kNumbers = 3;
  static constexpr bool kNeedsLeast = true, kSigned = true;
  static constexpr std::int64_t kGroups = kTile / kBlock;
  class Reader {
   public:
    Reader(const std::uint8_t* codes, const float* ranges);
    template <class F>
    struct Block {
      const std::uint8_t* codes;
      const quant::ExpandedDecoder& decoder;
      F read(std::int64_t i) const {
        LaneInt<F> code;
        cpu::read_bytes(code, codes + i);
        return decoder.decode<F>(code);
      }
    };
    template <class F>
    Block<F> block(std::int64_t b) const {
      return {codes_ + b * kBlock, decoders_[b]};
    }

   private:
    const std::uint8_t* codes_;
    quant::ExpandedDecoder decoders_[kGroups];
  };
  struct Encoders {
    float power[kGroups], whole[kGroups], part[kGroups];
    /// Writes the ranges beside the codes, too.
    Encoders(const TileExtremes& extremes, float* ranges);
    quant::ExpandedEncoder operator[](std::int64_t g) const {
      return {power[g], whole[g], part[g]};
    }
  };
  template <class F, bool Signed>
  static void write(const float* from, const Encoders& encoders, std::uint8_t* codes) {
    for (std::int64_t g = 0; g < kGroups; ++g) {
      const quant::ExpandedEncoder encoder = encoders[g];
      for (std::int64_t i = g * kBlock; i < (g + 1) * kBlock; i += cpu::kLanesOf<F>) {
        F value;
        cpu::read(value, from + i);
        cpu::write_bytes(codes + i, encoder.encode<Signed>(value));
      }
    }
  }
};
/// The same codes, of values that are never below zero.
struct PositiveFp8Codec : Fp8Codec {
  static constexpr bool kSigned = false;
};

using Signed8 = ByteCodec<quant::Dynamic8Signed, quant::ZeroCode::zero>;
using Positive8 = ByteCodec<quant::Dynamic8Unsigned, quant::ZeroCode::zero>;
// A second moment that rounded to zero would divide by eps where the first one did not.
using Floored8 = ByteCodec<quant::Dynamic8Unsigned, quant::ZeroCode::half_least>;
using Signed4 = HalfCodec<quant::Dynamic4Signed>;
using Positive4 = HalfCodec<quant::Linear4Unsigned>;

/// Codes a tile whose extremes are known; may change what it reads.
template <class Codec>
void write_tile(float* from, const TileExtremes& extremes, std::uint8_t* codes, float* numbers) {
  if constexpr (std::is_base_of_v<Fp8Codec, Codec>) {
    const Fp8Codec::Encoders encoders(extremes, numbers);
    cpu::with_lanes([&]<class F>(std::type_identity<F>) {
      Fp8Codec::write<F, Codec::kSigned>(from, encoders, codes);
    });
  } else {
    cpu::with_lanes([&]<class F>(std::type_identity<F>) {
      Codec::template write<F>(from, extremes, codes, numbers);
    });
  }
}

}  // namespace strata::optim
