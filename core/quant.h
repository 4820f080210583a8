#pragma once
// Codes for one value, single-source for both devices: block-wise users divide by their scale first
// and multiply after. Branch-free where they are used per element, so that loops vectorise; every
// step is one rounding that all instruction sets share.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/hd.h"
#include "core/lane.h"
#include "core/math.h"

namespace strata::quant {

/// What a stored zero of values that are never negative stands for.
enum class ZeroCode : std::uint8_t {
  zero,
  half_least,  // half the least positive value, where 0 would be a hazard
};

/// The dynamic code book of block-wise optimizers (Dettmers et al., 8-bit optimizers via block-wise
/// quantization, ICLR 2022): `Decades` powers of ten, the one below 10^-d cut into half as many
/// equal intervals as the one above it, their midpoints being the values; 0 and 1 besides.
/// Signed: 2^(Decades+1) codes in [-1, 1], ascending, kZero in the middle; there is no -1.
/// Unsigned: as many in [0, 1], each decade cut twice as fine.
template <int Decades, bool Signed>
struct DynamicCode {
  static constexpr int kCodes = 2 << Decades;
  static constexpr int kZero = Signed ? kCodes / 2 - 1 : 0;

 private:
  static constexpr int kShift = Signed ? 0 : 1;
  static constexpr int kRanks = 1 << (Decades + kShift);  // the one of 1.0
  static constexpr float kRankUnit = 1.f / static_cast<float>(kRanks);
  static constexpr float kCounts = 0x1p23f * kRankUnit;  // a float whose last place is a unit

 public:
  /// What the codes of a block stand for, in lanes F: the values of the book times its scale.
  template <class F, ZeroCode Zero = ZeroCode::zero>
  class Values {
   public:
    // A small scale would make units subnormal: there multiples are smaller by a power of two.
    STRATA_HD explicit Values(float scale)
        : down_(scale < 0x1p-60f ? 0x1p-64f : 1.f),
          first_(kCodes == 16 ? product(kValues, F(scale)) : product(kBelow<Zero>, F(down_))),
          unit_(product(kUnit<Zero>, F(scale / down_))) {}
    /// `code`: in the low bits of kBase; of 16 codes what is above them is ignored.
    STRATA_HD F decode(const LaneInt<F>& code) const {
      if constexpr (kCodes == 16) {
        return pick(first_, code);
      } else {
        // Ranks count magnitudes from 1 within decade 0 (from 2 where decades have 2^(i+1) values),
        // so that the exponent is the decade. Values are whole multiples of a unit of the decade.
        const F rank = float_of(code) - F(kCounts + (Signed ? kZero * kRankUnit : -kRankUnit));
        const LaneInt<F> bits = bits_of(rank), decade = bits >> 23;
        F below = pick(first_, decade);
        if constexpr (Signed) {
          below = float_of(bits_of(below) | (bits & LaneInt<F>(kSign)));
        }
        // Plus 0, so that a scale of 0 makes zeros without a sign.
        return fma_(fma_(rank, F(-kMultiple * down_), below), pick(unit_, decade), F(0.f));
      }
    }

   private:
    float down_;
    LaneTable<16> first_;  // multiple that a decade would start from at rank 0; of 16 codes: values
    LaneTable<16> unit_;   // below zero
  };

  /// What a code is read onto: a float of which it is the last place.
  static constexpr std::int32_t kBase = kCodes == 16 ? 0 : std::bit_cast<std::int32_t>(kCounts);

  /// The value of a code.
  template <class F = float, ZeroCode Zero = ZeroCode::zero>
  STRATA_HD static F decode(const LaneInt<F>& code) {
    return Values<F, Zero>(1.f).decode(code | LaneInt<F>(kBase));
  }

  /// Nearest code of each y in [-1, 1] or [0, 1], in the low byte of what is returned; between two:
  /// the higher one, as far as a float tells.
  template <class F = float>
  STRATA_HD static LaneInt<F> encode(const F& y) {
    using Int = LaneInt<F>;
    const Int bits = bits_of(y);
    const Int size = Signed ? bits_of(greater_size(y, F(kTiny))) : most_of(bits, bits_of(F(kTiny)));
    if constexpr (kCodes == 16) {
      static_assert(Signed);
      const Int cell = (size + Int(kCellShift)) >> 22, low = pick(kSteps.code, cell);
      const Int code = select(size >= bits_of(pick(kSteps.change, cell)), low + Int(1), low);
      return most_of(select(bits < Int(0), Int(2 * kZero) - code, code), Int(0));
    } else {
      return encode_fine<F>(bits, size);
    }
  }

 private:
  template <class F>
  STRATA_HD static LaneInt<F> encode_fine(const LaneInt<F>& bits, const LaneInt<F>& size) {
    using Int = LaneInt<F>;
    // A cell, two powers of two, holds at most one of the places where a decade starts: above it,
    // what holds is what holds in the next cell.
    const Int cell = size >> 24;
    const Int at = select(size >= bits_of(pick(kRules.start, cell)), cell + Int(1), cell);
    const F place =
        float_of(least_of(size, bits_of(pick(kRules.last, at)))) - pick(kRules.first, at);
    // Adding the code to 1.5 * 2^23 leaves it, rounded once, in the low bits.
    const Int code = bits_of(fma_(place, pick(kRules.per_value, at), pick(kRules.code, at)));
    if constexpr (Signed) {
      // There is no -1: the least code is 0.
      return most_of(select(bits < Int(0), Int(2 * kZero) - code, code), Int(-kRoundBits));
    } else {
      return code;
    }
  }

  static constexpr std::int32_t kSign = std::numeric_limits<std::int32_t>::min();
  static constexpr float kTiny = kCodes == 16 ? 0x1p-15f : 0x1p-29f;  // below every change
  static constexpr float kRound = 12582912.f;
  static constexpr std::int32_t kRoundBits = 0x4b400000;

  static constexpr double power_of_ten(int e) {
    double p = 1.0;
    for (int i = 0; i < e; ++i) {
      p *= 10.0;
    }
    return p;
  }
  static constexpr int count_of(int decade) { return 1 << (decade + kShift); }
  /// Value j of a decade; the decade above all has one, 1.0.
  static constexpr double value(int decade, int j) {
    return decade == Decades
               ? 1.0
               : (0.1 + 0.9 * (j + 0.5) / count_of(decade)) / power_of_ten(Decades - 1 - decade);
  }
  static constexpr double last(int decade) {
    return decade < 0 ? 0.0 : value(decade, decade == Decades ? 0 : count_of(decade) - 1);
  }
  static constexpr double pitch(int decade) {
    return decade == Decades ? 0.0 : 0.9 / count_of(decade) / power_of_ten(Decades - 1 - decade);
  }
  /// Where the first value of a decade is nearer than what is below it.
  static constexpr double start(int decade) { return 0.5 * (last(decade - 1) + value(decade, 0)); }

  // By the low bits of a rank's exponent: decades end at 15, and a rank of zero has 0. Every entry
  // is written, in order: GCC 12 reads a vector out of a sparse constant as zeros.
  static constexpr int decade_of(int index) { return index + Decades - 15; }
  // In a decade of c values from rank c on, that of rank r is (18 r + 9 - 16 c) / (20 c) times a
  // power of ten. An odd factor makes the units nearer to floats; multiples stay exact.
  static constexpr float kFactor = 75.f, kMultiple = 1.125f * kFactor;
  static constexpr float kOne = 64.f;  // multiple of a decade that has one value
  template <ZeroCode Zero>
  static constexpr bool has_half(int decade) {
    return decade == -1 && !Signed && Zero == ZeroCode::half_least;
  }
  template <ZeroCode Zero>
  static constexpr LaneTable<16> below() {
    LaneTable<16> t{};
    for (int i = 0; i < 16; ++i) {
      const int decade = decade_of(i);
      const double count = decade + kShift < 0 ? 0.0 : 1.0 * count_of(decade) / kRanks;
      const bool many = decade >= 0 && decade < Decades;
      const bool one = decade == Decades || has_half<Zero>(decade);
      t.values[i] = static_cast<float>(many  ? (count - 0.5625 * kRankUnit) * kFactor
                                       : one ? count * (kMultiple - kOne)
                                             : 0.0);
    }
    return t;
  }
  template <ZeroCode Zero>
  static constexpr LaneTable<16> units() {
    LaneTable<16> t{};
    for (int i = 0; i < 16; ++i) {
      const int decade = decade_of(i);
      const bool half = has_half<Zero>(decade);
      const double unit = decade == Decades ? 1.0 / kOne
                          : decade >= 0     ? pitch(decade) * kRanks / (1.125 * kFactor)
                          : half            ? start(0) * kRanks / kOne
                                            : 0.0;
      t.values[i] = static_cast<float>(-unit);
    }
    return t;
  }
  static constexpr LaneTable<16> sixteen_values() {
    LaneTable<16> t{};
    for (int code = 0; code < 16; ++code) {
      const int signed_rank = Signed ? code - kZero : code + 1;
      const int rank = signed_rank < 0 ? -signed_rank : signed_rank;
      int decade = -1;
      while (decade < Decades && rank >= count_of(decade + 1)) {
        ++decade;
      }
      const double magnitude = decade < 0 ? 0.0 : value(decade, rank - count_of(decade));
      t.values[code] = static_cast<float>(signed_rank < 0 ? -magnitude : magnitude);
    }
    return t;
  }
  static constexpr LaneTable<16> kValues = sixteen_values();
  template <ZeroCode Zero>
  static constexpr LaneTable<16> kBelow = below<Zero>();
  template <ZeroCode Zero>
  static constexpr LaneTable<16> kUnit = units<Zero>();

  /// Of 16 codes: where magnitudes change their code. Cells are halves of powers of two, moved so
  /// that each holds at most one such place.
  struct Steps {
    LaneTable<32> change;
    LaneTable<32, std::int32_t> code;  // below it
  };
  static constexpr std::int32_t kCellShift = 3 << 20;
  /// Value of a rank, zero being rank 0.
  static constexpr double magnitude(int rank) {
    int decade = -1;
    while (rank >= count_of(decade + 1) && decade < Decades) {
      ++decade;
    }
    return decade < 0 ? 0.0 : value(decade, rank - count_of(decade));
  }
  static constexpr Steps steps() {
    constexpr int kLast = 254;  // that of 1.0
    Steps s{};
    int rank = 0;
    for (int cell = kLast - 31; cell <= kLast; ++cell) {
      const auto change_in_cell = [&] {
        const auto change = static_cast<float>(0.5 * (magnitude(rank) + magnitude(rank + 1)));
        const bool here = (std::bit_cast<std::int32_t>(change) + kCellShift) >> 22 == cell;
        return rank < kRanks && here ? change : std::numeric_limits<float>::max();
      };
      s.code.values[cell % 32] = kZero + rank;
      s.change.values[cell % 32] = change_in_cell();
      rank += change_in_cell() < 1.f ? 1 : 0;
      if (change_in_cell() < 1.f) {
        throw "two codes change in one cell";
      }
    }
    if (rank != kRanks) {
      throw "a change of codes has no cell";
    }
    return s;
  }
  static constexpr Steps kSteps = [] {
    if constexpr (kCodes == 16) {
      return steps();
    } else {
      return Steps{};
    }
  }();

  /// How magnitudes of a cell become codes. The cell of [1/2, 2) is 15; what follows it, of 1.0, is
  /// found at 0, where the least of magnitudes is not.
  struct Rules {
    LaneTable<16> start;      // of the next decade
    LaneTable<16> first;      // value of the decade
    LaneTable<16> last;       // value of the decade
    LaneTable<16> per_value;  // 1 / pitch
    LaneTable<16> code;       // of the first value, plus kRound
  };
  static constexpr Rules rules() {
    Rules r{};
    double from = 0.5;
    int decade = Decades;
    for (int i = 15; i >= 0; --i, from *= 0.25) {  // [from, 4 from)
      const bool starts = i > 0 && decade >= 0 && start(decade) > from;
      r.start.values[i] =
          starts ? static_cast<float>(start(decade)) : std::numeric_limits<float>::max();
      decade = i == 0 ? Decades : decade - (starts ? 1 : 0);
      if (i > 0 && decade >= 0 && start(decade) > from) {
        throw "two decades start in one cell";
      }
      const bool zero = decade < 0;
      r.first.values[i] = zero ? 0.f : static_cast<float>(value(decade, 0));
      r.last.values[i] = zero ? 1.f : static_cast<float>(last(decade));
      r.per_value.values[i] =
          zero || decade == Decades ? 0.f : static_cast<float>(1.0 / pitch(decade));
      r.code.values[i] =
          kRound + (zero ? static_cast<float>(kZero)
                         : static_cast<float>(count_of(decade) + (Signed ? kZero : -1)));
    }
    return r;
  }
  static constexpr Rules kRules = rules();
};
using Dynamic8Signed = DynamicCode<7, true>;
using Dynamic8Unsigned = DynamicCode<7, false>;
using Dynamic4Signed = DynamicCode<3, true>;

/// 1/16, 2/16 ... 1: the second moment in four bits, without a zero to divide by.
struct Linear4Unsigned {
  static constexpr int kCodes = 16, kZero = 0;
  template <class F>
  class Values {
   public:
    STRATA_HD explicit Values(float scale) : values_(product(kValues, F(scale))) {}
    STRATA_HD F decode(const LaneInt<F>& code) const { return pick(values_, code); }

   private:
    LaneTable<16> values_;
  };
  template <class F = float>
  STRATA_HD static F decode(const LaneInt<F>& code) {
    return pick(kValues, code);
  }
  template <class F = float>
  STRATA_HD static LaneInt<F> encode(const F& y) {
    const LaneInt<F> code = truncated(fma_(y, F(16.f), F(-0.5f)));
    return least_of(most_of(code, LaneInt<F>(0)), LaneInt<F>(15));
  }

 private:
  static constexpr LaneTable<16> kValues = {{0.0625f,
                                             0.125f,
                                             0.1875f,
                                             0.25f,
                                             0.3125f,
                                             0.375f,
                                             0.4375f,
                                             0.5f,
                                             0.5625f,
                                             0.625f,
                                             0.6875f,
                                             0.75f,
                                             0.8125f,
                                             0.875f,
                                             0.9375f,
                                             1.f}};
};

/// 16 normal-float values (Dettmers et al., QLoRA, NeurIPS 2023).
inline constexpr std::array<float, 16> kNormalFloat4 = {-1.f,
                                                        -0.6961928009986877f,
                                                        -0.5250730514526367f,
                                                        -0.39491748809814453f,
                                                        -0.28444138169288635f,
                                                        -0.18477343022823334f,
                                                        -0.09105003625154495f,
                                                        0.f,
                                                        0.07958029955625534f,
                                                        0.16093020141124725f,
                                                        0.24611230194568634f,
                                                        0.33791524171829224f,
                                                        0.44070982933044434f,
                                                        0.5626170039176941f,
                                                        0.7229568362236023f,
                                                        1.f};
/// Nearest index; exactly between two: the higher one.
inline int encode_normal_float4(float y) {
  int code = 0;
  for (std::size_t i = 1; i < kNormalFloat4.size(); ++i) {
    const float middle = 0.5f * (kNormalFloat4[i - 1] + kNormalFloat4[i]);
    code = y >= middle ? static_cast<int>(i) : code;
  }
  return code;
}

/// FP8 with 4 exponent and 3 mantissa bits, no infinities (the "fn" variant): at most 448, least
/// positive 2^-9. Rounds to nearest even and saturates; NaN stays NaN.
struct Fp8E4M3 {
  static constexpr float kMax = 448.f;
  STRATA_HD static float decode(int code) {
    const auto u = static_cast<std::uint32_t>(code);
    const std::uint32_t magnitude = u & 0x7fu;
    // A normal code is a float with its exponent moved; a subnormal one counts 2^-9.
    const float normal = std::bit_cast<float>((magnitude << 20) + (120u << 23));
    const float small = static_cast<float>(static_cast<int>(magnitude)) * 0x1p-9f;
    // By bits: of a choice between floats compilers make a branch, and then no vectors.
    std::uint32_t bits = chosen(
        magnitude < 8u, std::bit_cast<std::uint32_t>(small), std::bit_cast<std::uint32_t>(normal));
    bits |= (u & 0x80u) << 24;
    return std::bit_cast<float>(chosen(magnitude == 0x7fu, 0x7fc00000u, bits));
  }
  STRATA_HD static int encode(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = u >> 31 << 7, bits = u & 0x7fffffffu;
    const std::uint32_t rounded = (bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20;
    const std::uint32_t normal = rounded - (120u << 3);
    // Adding 2^14 leaves multiples of 2^-9 in the mantissa, rounded to nearest even.
    const float shifted = std::bit_cast<float>(bits) + 0x1p14f;
    const std::uint32_t small =
        std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p14f);
    std::uint32_t code = chosen(bits < (121u << 23), small, normal);
    code = bits > std::bit_cast<std::uint32_t>(kMax) ? 0x7eu : code;
    code = bits > 0x7f800000u ? 0x7fu : code;
    return static_cast<int>(code | sign);
  }

 private:
  STRATA_HD static std::uint32_t chosen(bool which, std::uint32_t yes, std::uint32_t no) {
    const std::uint32_t mask = 0u - static_cast<std::uint32_t>(which);
    return (yes & mask) | (no & ~mask);
  }
};

/// Scale and zero point of a group in `bits` bits, asymmetric; the range always holds 0, so that
/// groups of one sign do not saturate.
struct Affine {
  float scale = 0.f, zero = 0.f;
  int most = 255;
  STRATA_HD static Affine of(float least, float most_value, int bits) {
    const int most = (1 << bits) - 1;
    const float low = least < 0.f ? least : 0.f, high = most_value > 0.f ? most_value : 0.f;
    const float span = high - low;
    const float scale = (span > 1e-5f ? span : 1e-5f) / static_cast<float>(most);
    const float zero = std::rint(-low / scale);
    const auto limit = static_cast<float>(most);
    return {scale, zero < 0.f ? 0.f : (zero > limit ? limit : zero), most};
  }
  STRATA_HD float decode(int code) const { return scale * (static_cast<float>(code) - zero); }
  STRATA_HD int clamp(float code) const {
    const auto limit = static_cast<float>(most);
    return static_cast<int>(code < 0.f ? 0.f : (code > limit ? limit : code));
  }
  STRATA_HD int encode(float x) const { return clamp(std::rint(x / scale) + zero); }
  /// `u` uniform in [0, 1): up with the probability of the fraction.
  STRATA_HD int encode(float x, float u) const {
    const float exact = x / scale, whole = static_cast<float>(static_cast<std::int32_t>(exact));
    const float below = whole > exact ? whole - 1.f : whole;
    return clamp(below + (u < exact - below ? 1.f : 0.f) + zero);
  }
};

}  // namespace strata::quant
