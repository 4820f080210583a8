#include "core/compress/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/compress/for_each_block.h"
#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/random_words.h"

namespace strata {
namespace {

// Elements that are rounded together, with room for a draw of four that they share with others.
constexpr std::int64_t kPiece = 64, kDraws = kPiece / 4 + 1;

FourBitRange range_of(const bf16* ranges, std::int64_t block) {
  return FourBitRange::of(ranges[2 * block], ranges[2 * block + 1]);
}

/// min and max of x (n); a zero is +0, so that bits do not depend on the order.
void write_range(bf16* range, const float* x, std::int64_t n) {
  constexpr float kLowest = -std::numeric_limits<float>::max();
  const float top = cpu::lane_max(n, kLowest, [&](std::int64_t i) { return x[i]; });
  const float bottom = cpu::lane_max(n, kLowest, [&](std::int64_t i) { return -x[i]; });
  range[0] = bf16_below(0.f - bottom);
  range[1] = bf16_above(top + 0.f);
}

/// codes of x (n), n <= kPiece; `rounding` has one number for each element.
void encode_piece(std::uint8_t* codes,
                  const float* x,
                  const float* rounding,
                  std::int64_t n,
                  const FourBitRange& range) {
  std::uint32_t code[kPiece + 1];
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    code[i] = range.encode(x[i], rounding[i]);
  }
  code[n] = 0;  // the partner of a last odd element
#pragma omp simd
  for (std::int64_t j = 0; j < (n + 1) / 2; ++j) {
    codes[j] = static_cast<std::uint8_t>(code[2 * j] << 4 | code[2 * j + 1]);
  }
}

/// rounding (kPiece) = uniform numbers first, first + 1, ... of the key.
void draw(float* rounding, const RandomKey& key, std::int64_t first) {
  std::uint32_t words[4 * kDraws];
  fill_words(words, key, static_cast<std::uint64_t>(first / 4), kPiece / 4 + (first % 4 != 0));
  for (std::int64_t i = 0; i < kPiece; ++i) {
    rounding[i] = uniform(words[first % 4 + i]);
  }
}

void require_sizes(std::int64_t numel,
                   std::size_t codes,
                   std::size_t ranges,
                   const ErrorFeedback& settings) {
  STRATA_ASSERT(static_cast<std::int64_t>(codes) == ErrorFeedback::code_bytes(numel));
  STRATA_ASSERT(static_cast<std::int64_t>(ranges) == settings.range_numel(numel));
}

std::int64_t blocks_in(std::int64_t numel, const ErrorFeedback& settings) {
  return (numel + settings.block - 1) / settings.block;
}

/// Blocks [begin, end) of the arrays.
void add_blocks(std::span<float> to,
                std::span<const float> gradient,
                std::span<const std::uint8_t> codes,
                std::span<const bf16> ranges,
                std::int64_t block,
                std::int64_t begin,
                std::int64_t end) {
  const auto n = static_cast<std::int64_t>(gradient.size());
  cpu::simd([&] {
    for (std::int64_t b = begin; b < end; ++b) {
      const FourBitRange range = range_of(ranges.data(), b);
      const std::int64_t first = b * block, size = std::min(block, n - first);
      const float* g = gradient.data() + first;
      const std::uint8_t* code = codes.data() + first / 2;
      float* out = to.data() + first;
#pragma GCC ivdep
      for (std::int64_t j = 0; j < size / 2; ++j) {
        out[2 * j] = g[2 * j] + range.decode(code[j] >> 4);
        out[2 * j + 1] = g[2 * j + 1] + range.decode(code[j] & 15u);
      }
      if (size % 2 != 0) {
        out[size - 1] = g[size - 1] + range.decode(code[size / 2] >> 4);
      }
    }
  });
}

void encode_blocks(std::span<std::uint8_t> codes,
                   std::span<bf16> ranges,
                   std::span<const float> values,
                   const ErrorFeedback& settings,
                   const RandomKey& key,
                   std::int64_t first,
                   std::int64_t begin,
                   std::int64_t end) {
  const auto n = static_cast<std::int64_t>(values.size());
  const bool random = settings.rounding == ErrorRounding::stochastic;
  float rounding[kPiece];
  std::fill(rounding, rounding + kPiece, 0.5f);
  cpu::simd([&] {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t from = b * settings.block, to = std::min(n, from + settings.block);
      write_range(ranges.data() + 2 * b, values.data() + from, to - from);
      const FourBitRange range = range_of(ranges.data(), b);
      for (std::int64_t i = from; i < to; i += kPiece) {
        if (random) {
          draw(rounding, key, first + i);
        }
        encode_piece(
            codes.data() + i / 2, values.data() + i, rounding, std::min(kPiece, to - i), range);
      }
    }
  });
}

}  // namespace

void ErrorFeedback::validate() const {
  if (block < 2 || block % 2 != 0) {
    throw Error(Errc::config,
                "error feedback: a block must have an even number of elements, got " +
                    std::to_string(block) + "; use " +
                    std::to_string(std::max<std::int64_t>(2, block + block % 2)));
  }
}

void add_error(std::span<float> to,
               std::span<const float> gradient,
               std::span<const std::uint8_t> codes,
               std::span<const bf16> ranges,
               const ErrorFeedback& settings) {
  const auto n = static_cast<std::int64_t>(gradient.size());
  STRATA_ASSERT(to.size() == gradient.size());
  require_sizes(n, codes.size(), ranges.size(), settings);
  add_blocks(to, gradient, codes, ranges, settings.block, 0, blocks_in(n, settings));
}

void add_error(std::span<float> to,
               std::span<const float> gradient,
               std::span<const std::uint8_t> codes,
               std::span<const bf16> ranges,
               const ErrorFeedback& settings,
               Stream& stream) {
  const auto n = static_cast<std::int64_t>(gradient.size());
  STRATA_ASSERT(to.size() == gradient.size());
  require_sizes(n, codes.size(), ranges.size(), settings);
  const std::int64_t block = settings.block;
  const auto body = [=](std::int64_t begin, std::int64_t end) {
    add_blocks(to, gradient, codes, ranges, block, begin, end);
  };
  for_each_block(stream, blocks_in(n, settings), block, body);
}

void encode_error(std::span<std::uint8_t> codes,
                  std::span<bf16> ranges,
                  std::span<const float> values,
                  const ErrorFeedback& settings,
                  const RandomKey& key,
                  std::int64_t first) {
  const auto n = static_cast<std::int64_t>(values.size());
  require_sizes(n, codes.size(), ranges.size(), settings);
  encode_blocks(codes, ranges, values, settings, key, first, 0, blocks_in(n, settings));
}

void encode_error(std::span<std::uint8_t> codes,
                  std::span<bf16> ranges,
                  std::span<const float> values,
                  const ErrorFeedback& settings,
                  const RandomKey& key,
                  std::int64_t first,
                  Stream& stream) {
  const auto n = static_cast<std::int64_t>(values.size());
  require_sizes(n, codes.size(), ranges.size(), settings);
  const auto body = [=](std::int64_t begin, std::int64_t end) {
    encode_blocks(codes, ranges, values, settings, key, first, begin, end);
  };
  for_each_block(stream, blocks_in(n, settings), settings.block, body);
}

std::int64_t count_dead(std::span<const float> gradient,
                        std::span<const bf16> ranges,
                        const ErrorFeedback& settings) {
  std::int64_t dead = 0;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const auto block = static_cast<std::int64_t>(i) / settings.block;
    const float half = range_of(ranges.data(), block).step / 2.f, g = std::abs(gradient[i]);
    dead += g > 0.f && g < half ? 1 : 0;
  }
  return dead;
}

}  // namespace strata
