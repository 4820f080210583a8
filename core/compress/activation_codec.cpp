#include "core/compress/activation_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/bf16.h"
#include "core/compress/error_feedback.h"
#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/for_each.h"
#include "core/lane.h"
#include "core/quant.h"

namespace strata {
namespace {

// Sums and differences of two magnitudes below it are finite, rounded away from zero or not.
constexpr std::int32_t kTooLarge = std::bit_cast<std::int32_t>(0x1p126f);
constexpr float kLeast = 0x1p-100f;  // magnitudes below it need no digits of their own
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const ErrorFeedback& four_bits() {
  static const ErrorFeedback settings{.block = 64, .rounding = ErrorRounding::stochastic};
  return settings;
}

std::int64_t groups_in(ActivationCodec codec, std::int64_t numel) {
  const std::int64_t group = group_numel(codec);
  return (numel + group - 1) / group;
}

/// Magnitudes are ordered as their bits are, NaN above all. Inside a simd body. Lanes of our own: a
/// reduction of OpenMP's goes through MMX registers in GCC 12's base code, and leaves x87 unusable.
inline std::int32_t greatest_bits(const float* x, std::int64_t n) {
  std::int32_t acc[cpu::kLanes] = {};
  const auto take = [&](std::int64_t i, int l) {
    const std::int32_t bits = bits_of(x[i]) & 0x7fffffff;
    acc[l] = acc[l] < bits ? bits : acc[l];
  };
  std::int64_t i = 0;
  for (; i + cpu::kLanes <= n; i += cpu::kLanes) {
#pragma omp simd
    for (int l = 0; l < cpu::kLanes; ++l) {
      take(i + l, l);
    }
  }
  for (int l = 0; i + l < n; ++l) {
    take(i + l, l);
  }
  std::int32_t top = 0;
  for (const std::int32_t a : acc) {
    top = top < a ? a : top;
  }
  return top;
}

/// E4M3 of x / scale, where the scale is the least power of two that leaves no magnitude above 448.
struct Fp8Group {
  static constexpr std::int64_t kNumel = 128;
  static float scale_of(std::int32_t top) {
    const std::int32_t exponent = (top >> 23) - 127, mantissa = top & 0x7fffff;
    const std::int32_t power = most_of(exponent - (mantissa <= 0x600000 ? 8 : 7), -100);
    return top >= kTooLarge ? kNaN : float_of((power + 127) << 23);
  }
  static float inverse_of(float scale, std::int32_t) { return 1.f / scale; }  // exact
  static std::uint8_t encode(float x, float inverse) {
    return static_cast<std::uint8_t>(quant::Fp8E4M3::encode(x * inverse));
  }
  static float decode(std::uint8_t code, float scale) {
    return quant::Fp8E4M3::decode(code) * scale;
  }
};

struct Int8Group {
  static constexpr std::int64_t kNumel = 256;
  static float scale_of(std::int32_t top) {
    return top >= kTooLarge ? kNaN : most_of(float_of(top), kLeast) / 127.f;
  }
  static float inverse_of(float, std::int32_t top) {
    return 127.f / most_of(float_of(top), kLeast);
  }
  static std::uint8_t encode(float x, float inverse) {
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(rounded(x * inverse)));
  }
  static float decode(std::uint8_t code, float scale) {
    return static_cast<float>(static_cast<std::int8_t>(code)) * scale;
  }
};

/// A scale for each group, then a byte for each element.
template <class Group, class T>
void encode_groups(std::span<std::byte> to, const T* from, std::int64_t numel) {
  const std::int64_t groups = (numel + Group::kNumel - 1) / Group::kNumel;
  auto* const scales = reinterpret_cast<float*>(to.data());
  auto* const codes = reinterpret_cast<std::uint8_t*>(scales + groups);
  parallel_for(groups, kChunk / Group::kNumel, [=](std::int64_t begin, std::int64_t end) {
    cpu::simd([=] {
      float x[Group::kNumel];
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t first = g * Group::kNumel, n = std::min(Group::kNumel, numel - first);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
          x[i] = load(from[first + i]);
        }
        const std::int32_t top = greatest_bits(x, n);
        scales[g] = Group::scale_of(top);
        const float inverse = top >= kTooLarge ? 0.f : Group::inverse_of(scales[g], top);
        std::uint8_t* const code = codes + first;
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
          code[i] = Group::encode(top >= kTooLarge ? 0.f : x[i], inverse);
        }
      }
    });
  });
}

template <class Group, class T>
void decode_groups(T* to, std::span<const std::byte> from, std::int64_t numel) {
  const std::int64_t groups = (numel + Group::kNumel - 1) / Group::kNumel;
  const auto* const scales = reinterpret_cast<const float*>(from.data());
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(scales + groups);
  parallel_for(groups, kChunk / Group::kNumel, [=](std::int64_t begin, std::int64_t end) {
    cpu::simd([=] {
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t first = g * Group::kNumel, n = std::min(Group::kNumel, numel - first);
        const float scale = scales[g];
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
          store(to[first + i], Group::decode(codes[first + i], scale));
        }
      }
    });
  });
}

/// Calls body(first, n) for pieces of whole groups that cover [begin, end) groups.
template <class Body>
void for_pieces(std::int64_t begin, std::int64_t end, std::int64_t numel, const Body& body) {
  const std::int64_t group = four_bits().block;
  for (std::int64_t first = begin * group; first < std::min(end * group, numel); first += kChunk) {
    body(first, std::min({kChunk, end * group - first, numel - first}));
  }
}

/// Two bf16 for each group, its range, then the codes.
struct FourBits {
  bf16* ranges;
  std::uint8_t* codes;
  std::span<bf16> ranges_at(std::int64_t first, std::int64_t n) const {
    return {ranges + 2 * (first / four_bits().block),
            static_cast<std::size_t>(four_bits().range_numel(n))};
  }
  std::span<std::uint8_t> codes_at(std::int64_t first, std::int64_t n) const {
    return {codes + first / 2, static_cast<std::size_t>(ErrorFeedback::code_bytes(n))};
  }
};
FourBits four_bits_in(const std::byte* bytes, std::int64_t numel) {
  auto* const ranges = reinterpret_cast<bf16*>(const_cast<std::byte*>(bytes));
  return {ranges, reinterpret_cast<std::uint8_t*>(ranges + four_bits().range_numel(numel))};
}

template <class T>
void encode_four_bits(std::span<std::byte> bytes,
                      const T* from,
                      std::int64_t numel,
                      const RandomKey& key,
                      std::int64_t draw) {
  const FourBits to = four_bits_in(bytes.data(), numel);
  const std::int64_t group = four_bits().block;
  parallel_for(groups_in(ActivationCodec::int4, numel),
               kChunk / group,
               [=](std::int64_t begin, std::int64_t end) {
                 float x[kChunk];
                 bool lost[kChunk / 64];
                 for_pieces(begin, end, numel, [&](std::int64_t first, std::int64_t n) {
                   cpu::simd([&] {
                     for (std::int64_t at = 0; at < n; at += group) {
                       const std::int64_t m = std::min(group, n - at);
#pragma omp simd
                       for (std::int64_t i = at; i < at + m; ++i) {
                         x[i] = load(from[first + i]);
                       }
                       lost[at / group] = greatest_bits(x + at, m) >= kTooLarge;
                       if (lost[at / group]) {
                         std::fill_n(x + at, m, 0.f);
                       }
                     }
                   });
                   const auto ranges = to.ranges_at(first, n);
                   encode_error(to.codes_at(first, n),
                                ranges,
                                {x, static_cast<std::size_t>(n)},
                                four_bits(),
                                key,
                                draw + first);
                   for (std::size_t g = 0; 2 * g < ranges.size(); ++g) {
                     if (lost[g]) {
                       ranges[2 * g] = ranges[2 * g + 1] = to_bf16(kNaN);
                     }
                   }
                 });
               });
}

template <class T>
void decode_four_bits(T* to, std::span<const std::byte> bytes, std::int64_t numel) {
  const FourBits from = four_bits_in(bytes.data(), numel);
  parallel_for(
      groups_in(ActivationCodec::int4, numel),
      kChunk / four_bits().block,
      [=](std::int64_t begin, std::int64_t end) {
        float x[kChunk];
        for_pieces(begin, end, numel, [&](std::int64_t first, std::int64_t n) {
          const std::span<float> piece(x, static_cast<std::size_t>(n));
          std::ranges::fill(piece, 0.f);
          add_error(piece, piece, from.codes_at(first, n), from.ranges_at(first, n), four_bits());
          cpu::simd([&] {
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) {
              store(to[first + i], x[i]);
            }
          });
        });
      });
}

void require(const Tensor& x, std::size_t bytes, ActivationCodec codec) {
  if (!x.on(DeviceKind::cpu)) {
    throw Error(Errc::internal, "activation codec: no kernel for " + to_string(x.device()));
  }
  STRATA_ASSERT(is_lossy(codec) && x.is_contiguous());
  STRATA_ASSERT(static_cast<std::int64_t>(bytes) == coded_bytes(codec, x.numel()));
}

}  // namespace

std::string_view to_string(ActivationCodec codec) {
  constexpr std::string_view kNames[] = {"exact", "fp8", "int8", "int4"};
  return kNames[static_cast<std::size_t>(codec)];
}

std::int64_t group_numel(ActivationCodec codec) {
  switch (codec) {
    case ActivationCodec::exact:
      break;
    case ActivationCodec::fp8:
      return Fp8Group::kNumel;
    case ActivationCodec::int8:
      return Int8Group::kNumel;
    case ActivationCodec::int4:
      return four_bits().block;
  }
  throw Error(Errc::internal, "activation codec: exact values have no groups");
}

std::int64_t coded_bytes(ActivationCodec codec, std::int64_t numel) {
  constexpr std::int64_t kScale = 4;  // a float, or two bf16
  const std::int64_t codes =
      codec == ActivationCodec::int4 ? ErrorFeedback::code_bytes(numel) : numel;
  return groups_in(codec, numel) * kScale + codes;
}

double coding_error(ActivationCodec codec, DType dtype, double x, double least, double most) {
  const double top = std::max(std::abs(least), std::abs(most));
  double error = 0;
  switch (codec) {
    case ActivationCodec::exact:
      return 0;
    case ActivationCodec::fp8:
      return std::max(std::abs(x) / 16, top / 1024 / 224) + 0x1p-100;
    case ActivationCodec::int8:
      error = top / 253;
      break;
    case ActivationCodec::int4:
      error = (most - least + (std::abs(least) + std::abs(most)) / 128) / 15;
      break;
  }
  const double stored = dtype == DType::bf16 ? (std::abs(x) + error) / 256 : 0;
  return error + stored + 0x1p-100;
}

void encode_activation(std::span<std::byte> codes,
                       const Tensor& x,
                       ActivationCodec codec,
                       const RandomKey& key,
                       std::int64_t first) {
  require(x, codes.size(), codec);
  cpu::visit_storage(x.dtype(), [&](auto storage) {
    const auto* const from = x.data<decltype(storage)>();
    switch (codec) {
      case ActivationCodec::exact:
        break;
      case ActivationCodec::fp8:
        return encode_groups<Fp8Group>(codes, from, x.numel());
      case ActivationCodec::int8:
        return encode_groups<Int8Group>(codes, from, x.numel());
      case ActivationCodec::int4:
        return encode_four_bits(codes, from, x.numel(), key, first);
    }
  });
}

void decode_activation(const Tensor& y, std::span<const std::byte> codes, ActivationCodec codec) {
  require(y, codes.size(), codec);
  cpu::visit_storage(y.dtype(), [&](auto storage) {
    auto* const to = y.data<decltype(storage)>();
    switch (codec) {
      case ActivationCodec::exact:
        break;
      case ActivationCodec::fp8:
        return decode_groups<Fp8Group>(to, codes, y.numel());
      case ActivationCodec::int8:
        return decode_groups<Int8Group>(to, codes, y.numel());
      case ActivationCodec::int4:
        return decode_four_bits(to, codes, y.numel());
    }
  });
}

}  // namespace strata
