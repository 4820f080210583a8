#include <algorithm>
#include <bit>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/philox.h"
#include "data/tokens.h"

namespace strata::data {
namespace {

// The rounds of the permutation use streams 0, 1, ... of an epoch's key; the offset another.
constexpr std::uint64_t kOffsetStream = 1000;

/// Image of `i` under the permutation of 0 .. n-1 that (seed, epoch) choose: a Feistel network over
/// the smallest even number of bits that holds n, repeated until it lands below n (cycle walking;
/// under four rounds of it on average). Black and Rogaway, Ciphers with arbitrary finite domains,
/// CT-RSA 2002.
std::int64_t permute(std::int64_t i, std::int64_t n, std::uint64_t seed, std::uint64_t epoch) {
  constexpr std::uint64_t kRounds = 6;
  const auto bits = std::bit_width(static_cast<std::uint64_t>(n - 1));
  const auto half = std::max<decltype(bits)>(1, (bits + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto at = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = at >> half, right = at & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const RandomKey key{seed, RandomUse::sampling, epoch, round};
      const std::uint64_t mixed = left ^ (key.words(right)[0] & mask);
      left = right;
      right = mixed;
    }
    at = left << half | right;
  } while (at >= static_cast<std::uint64_t>(n));
  return static_cast<std::int64_t>(at);
}

void prepare(MicroBatch& batch, std::int64_t first_sample, std::int64_t B, std::int64_t T) {
  for (Tensor* tensor : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
    if (!*tensor) {
      *tensor = Tensor::zeros(DType::i32, {B, T});
    }
    STRATA_ASSERT(tensor->shape() == (Shape{B, T}) && tensor->is_contiguous());
  }
  batch.first_sample = first_sample;
  std::fill_n(batch.documents.data<std::int32_t>(), B * T, 0);
  auto* positions = batch.positions.data<std::int32_t>();
  for (std::int64_t i = 0; i < B * T; ++i) {
    positions[i] = static_cast<std::int32_t>(i % T);
  }
}

/// Row b: tokens `start` .. and the token after each as its target; `window` has the tokens of
/// both.
void fill_row(MicroBatch& batch,
              std::int64_t b,
              std::span<const std::int32_t> window,
              std::int64_t T) {
  const auto targets = window.empty() ? 0 : static_cast<std::int64_t>(window.size()) - 1;
  auto* tokens = batch.tokens.data<std::int32_t>() + b * T;
  auto* next = batch.targets.data<std::int32_t>() + b * T;
  std::copy_n(window.begin(), targets, tokens);
  std::fill(tokens + targets, tokens + T, 0);
  std::copy_n(window.begin() + (targets > 0 ? 1 : 0), targets, next);
  std::fill(next + targets, next + T, kMasked);
}

}  // namespace

WindowSampler::WindowSampler(const TokenStream& stream, std::int64_t T, std::uint64_t seed)
    : stream_(stream), T_(T), seed_(seed) {
  STRATA_ASSERT(T > 0);
  const std::int64_t starts = stream.size() - T;
  if (starts < 1) {
    throw Error(Errc::data,
                fmt::format("data.train: sequences of train.seq_len = {} tokens need a text of at "
                            "least {}, got {}; give more text or a shorter train.seq_len",
                            T,
                            T + 1,
                            stream.size()));
  }
  // One tile less than would fit leaves room for an offset of T or more, so that over epochs every
  // start occurs.
  windows_ = std::max<std::int64_t>(1, (stream.size() - 1) / T - 1);
  offsets_ = starts - (windows_ - 1) * T;
}

std::int64_t WindowSampler::start_of(std::int64_t sample) const {
  STRATA_ASSERT(sample >= 0);
  const auto epoch = static_cast<std::uint64_t>(sample / windows_);
  const auto words = RandomKey{seed_, RandomUse::sampling, epoch, kOffsetStream}.words(0);
  const std::uint64_t random = std::uint64_t{words[0]} << 32 | words[1];
  const auto offset = static_cast<std::int64_t>(random % static_cast<std::uint64_t>(offsets_));
  return offset + T_ * permute(sample % windows_, windows_, seed_, epoch);
}

void WindowSampler::fill(MicroBatch& batch, std::int64_t first_sample, std::int64_t B) const {
  prepare(batch, first_sample, B, T_);
  std::vector<std::int32_t> window(static_cast<std::size_t>(T_) + 1);
  for (std::int64_t b = 0; b < B; ++b) {
    stream_.read(start_of(first_sample + b), window);
    fill_row(batch, b, window, T_);
  }
}

std::int64_t evaluation_windows(const TokenStream& stream, std::int64_t T) {
  STRATA_ASSERT(T > 0);
  if (stream.size() < 2) {
    throw Error(
        Errc::data,
        fmt::format("data.valid: the first token is nobody's target, so a text needs at least "
                    "2 tokens, got {}; give more text",
                    stream.size()));
  }
  return (stream.size() - 1 + T - 1) / T;
}

void fill_evaluation(const TokenStream& stream,
                     std::int64_t T,
                     std::int64_t first_window,
                     std::int64_t B,
                     MicroBatch& batch) {
  prepare(batch, first_window, B, T);
  std::vector<std::int32_t> window(static_cast<std::size_t>(T) + 1);
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t begin = std::min((first_window + b) * T, stream.size());
    const std::int64_t n = std::min(T + 1, stream.size() - begin);
    const auto part = std::span(window).first(static_cast<std::size_t>(n));
    stream.read(begin, part);
    fill_row(batch, b, part, T);
  }
}

}  // namespace strata::data
