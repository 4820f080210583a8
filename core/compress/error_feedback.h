#pragma once
#include <bit>
#include <cstdint>
#include <span>

#include "core/bf16.h"
#include "core/hd.h"
#include "core/math.h"
#include "core/philox.h"
#include "core/runtime.h"

namespace strata {

/// The largest bf16 that is not above x, of finite numbers only.
STRATA_HD inline bf16 bf16_below(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t away = (u >> 31) != 0u && (u & 0xffffu) != 0u ? 1u : 0u;
  const std::uint32_t bits = (u >> 16) + away;
  return {static_cast<std::uint16_t>(bits == 0xff80u ? 0xff7fu : bits)};
}
/// The smallest bf16 that is not below x, of finite numbers only.
STRATA_HD inline bf16 bf16_above(float x) {
  return {static_cast<std::uint16_t>(bf16_below(-x).bits ^ 0x8000u)};
}

/// Sixteen levels from `min` in equal steps: the four-bit code of one block. A block of one value
/// has no step, code 0 and comes back as `min`.
struct FourBitRange {
  float min = 0.f, step = 0.f;
  STRATA_HD static FourBitRange of(bf16 min, bf16 max) {
    return {to_float(min), (to_float(max) - to_float(min)) / 15.f};
  }
  /// `rounding` in [0, 1) is added before cutting: 0.5 is to nearest, a uniform number is right on
  /// average.
  STRATA_HD std::uint32_t encode(float x, float rounding) const {
    const float level = (x - min) / (step > 0.f ? step : 1.f) + rounding;
    const float top = level < 15.f ? level : 15.f;
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(top > 0.f ? top : 0.f));
  }
  STRATA_HD float decode(std::uint32_t code) const {
    return fma_(static_cast<float>(static_cast<std::int32_t>(code)), step, min);
  }
};

enum class ErrorRounding : std::uint8_t {
  nearest,     // an error below half a step may never grow: the dead zone
  stochastic,  // right on average
};

/// The memory of error feedback: what a step did not send, in four bits. Codes: two per byte, the
/// even element in the high nibble; ranges: two bf16 per block, its minimum rounded down and its
/// maximum rounded up, so that no element lies outside. Blocks are counted from the array's start.
struct ErrorFeedback {
  std::int64_t block = 64;  // even
  ErrorRounding rounding = ErrorRounding::nearest;

  static std::int64_t code_bytes(std::int64_t numel) { return (numel + 1) / 2; }
  std::int64_t range_numel(std::int64_t numel) const { return 2 * ((numel + block - 1) / block); }
  /// Throws config, with the nearest legal value, unless block is even and positive.
  void validate() const;
};

// Arrays are finite, and a block's maximum minus its minimum too. Any lane; no memory is taken.
// Without a stream: on the calling thread, for callers that share out the work themselves.

/// to = gradient + decoded error. `to` may be `gradient`. Zero bytes decode to zeros.
void add_error(std::span<float> to,
               std::span<const float> gradient,
               std::span<const std::uint8_t> codes,
               std::span<const bf16> ranges,
               const ErrorFeedback& settings,
               Stream& stream);
void add_error(std::span<float> to,
               std::span<const float> gradient,
               std::span<const std::uint8_t> codes,
               std::span<const bf16> ranges,
               const ErrorFeedback& settings);

/// codes, ranges = values. Stochastic rounding draws for element i the number `first + i` of `key`.
void encode_error(std::span<std::uint8_t> codes,
                  std::span<bf16> ranges,
                  std::span<const float> values,
                  const ErrorFeedback& settings,
                  const RandomKey& key,
                  std::int64_t first,
                  Stream& stream);
void encode_error(std::span<std::uint8_t> codes,
                  std::span<bf16> ranges,
                  std::span<const float> values,
                  const ErrorFeedback& settings,
                  const RandomKey& key,
                  std::int64_t first);

/// Entries that are not zero and yet smaller than half a step of their block: rounding to nearest
/// can lose them step after step. For diagnosis.
std::int64_t count_dead(std::span<const float> gradient,
                        std::span<const bf16> ranges,
                        const ErrorFeedback& settings);

}  // namespace strata
