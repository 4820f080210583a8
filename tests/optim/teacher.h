#pragma once
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/optim/one_tensor.h"
#include "tests/support/twins/draws.h"
#include "tests/support/twins/moments.h"

namespace strata::tests {

/// Gradients as a run has them: every element its own size, over four decades, some of them zero
/// now and then, some always.
class Gradients {
 public:
  explicit Gradients(std::size_t numel) : draws_(11), size_(numel), now_(numel) {
    for (float& value : pool_) {
      value = static_cast<float>(draws_.normal());
    }
    for (std::size_t i = 0; i < numel; ++i) {
      size_[i] = i % 97 == 96 ? 0.f : static_cast<float>(0.02 * std::exp(1.5 * draws_.normal()));
    }
  }
  std::span<const float> next() {
    const auto start = static_cast<std::size_t>(draws_.uniform() * kPool);
    for (std::size_t i = 0; i < now_.size(); ++i) {
      const float draw = pool_[(start + i) % kPool];
      now_[i] = std::abs(draw) < 0.01f ? 0.f : size_[i] * draw;
    }
    return now_;
  }

 private:
  static constexpr std::size_t kPool = 10'007;
  twins::Draws draws_;
  std::vector<float> size_, now_, pool_ = std::vector<float>(kPool);
};

inline std::vector<float> start_values(std::size_t numel) {
  twins::Draws draws(3);
  std::vector<float> out(numel);
  for (float& value : out) {
    value = static_cast<float>(0.3 * draws.normal());
  }
  return out;
}

/// Learning rate and clip coefficient of step t: neither stands still.
inline double rate_of(std::int64_t t) {
  return 2e-3 * (1 - static_cast<double>(t % 500) / 1000);
}
inline float clip_of(std::int64_t t) {
  return t % 3 == 0 ? 0.7f : 1.f;
}
inline twins::Vec clipped(std::span<const float> g, std::int64_t t) {
  twins::Vec out(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    out[i] = static_cast<double>(clip_of(t)) * static_cast<double>(g[i]);
  }
  return out;
}

/// Odd rows and columns, a row, a vector's length, one element more than whole chunks have.
inline std::vector<Shape> odd_shapes() {
  return {{37, 61}, {64, 48}, {1, 300}, {5}, {4099}};
}

/// A moment of the kernel as the twins keep it; f32 where the method keeps it so.
inline twins::Moment moment_of(const OneTensor& kernel,
                               const std::string& name,
                               twins::Codec codec,
                               twins::Sign sign) {
  twins::Moment out{codec, sign, kernel.size(), {}, {}, {}, {}};
  if (const Tensor plain = kernel.field(name)) {
    out.codec = plain.dtype() == DType::bf16 ? twins::Codec::bf16 : twins::Codec::f32;
    out.values = OneTensor::wide(plain);
    out.numel = out.values.size();
    return out;
  }
  out.codes = kernel.codes(name + ".codes");
  if (codec != twins::Codec::four_bit) {  // whose codes do not tell whether the last is there
    out.numel = out.codes.size();
  }
  (codec == twins::Codec::fp8 ? out.range : out.scale) =
      kernel.values(name + (codec == twins::Codec::fp8 ? ".range" : ".scale"));
  return out;
}

/// Exponents that the kernel chose, one per fp8 group; nothing in other codecs.
inline twins::Vec exponents_of(const twins::Moment& moment) {
  twins::Vec out;
  for (std::size_t i = 1; i < moment.range.size(); i += 3) {
    out.push_back(moment.range[i]);
  }
  return out;
}

/// Largest summand of keep * old + gain * g, element by element.
inline twins::Vec terms_of(const twins::Vec& old, const twins::Vec& g, double gain) {
  twins::Vec out(old.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = std::max(std::abs(old[i]), gain * std::abs(g[i]));
  }
  return out;
}

inline constexpr double kNear = 4;      // ulps of f32
inline constexpr double kClose = 1e-6;  // of values
inline constexpr double kTie = 1e-3;    // ulps; what float64 itself may not tell from none

/// What the kernel did in one step beside what its twin says. Choices may differ where the twin's
/// value lies within kNear ulps of the place where they flip; they are counted.
class Judge {
 public:
  std::int64_t elements = 0;  // that were coded or decided
  std::int64_t flips = 0;
  std::int64_t ties = 0;  // where the exact value lies on the boundary itself
  double weights = 0;     // largest error over the largest of |w|, |w before| and lr
  double state = 0;       // largest error of f32 state, over the largest summand behind it

  void compare_weights(const twins::Vec& got,
                       const twins::Vec& want,
                       const twins::Vec& before,
                       double lr) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      // A step that nearly cancels the weight rounds where the two were.
      const double size = std::max({std::abs(want[i]), std::abs(before[i]), lr});
      const double error = std::abs(got[i] - want[i]) / size;
      weights = std::max(weights, error);
      ASSERT_LE(error, kClose) << "weight " << i << ": " << got[i] << ", exactly " << want[i];
    }
  }
  /// `terms`: the largest summand behind each value.
  void compare_values(const twins::Vec& got, const twins::Vec& want, const twins::Vec& terms) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double size = std::max({std::abs(want[i]), terms[i], 0x1p-126});
      const double error = std::abs(got[i] - want[i]) / size;
      state = std::max(state, error);
      ASSERT_LE(error, kClose) << "state " << i << ": " << got[i] << ", exactly " << want[i];
    }
  }
  /// A choice out of neighbours: equal, or the next one near a flip.
  void compare_choice(double got, double want, double other, double margin, const char* what) {
    ++elements;
    if (got != want) {
      ++(margin < kTie ? ties : flips);
      ASSERT_LE(margin, kNear) << what << ": " << got << ", the twin chose " << want;
      ASSERT_EQ(got, other) << what << ": no neighbour of " << want;
    }
  }
  /// A value rounded to bf16. Where a sum cancels, the ulps of its largest part, `term`, may be
  /// wider than steps of bf16: then what is near is in reach of those.
  void compare_bf16(double got, double want, double margin, double term, const char* what) {
    const double step = std::max(twins::bf16_ulp(want), twins::bf16_ulp(got));
    const double reach = step + 2 * kNear * twins::f32_ulp(term);
    const double other = std::abs(got - want) <= reach ? got : want;
    compare_choice(got, want, other, margin, what);
  }
  /// `terms`: the largest summand behind each element.
  void compare_moment(const twins::Moment& got,
                      const twins::Encoded& want,
                      const twins::Vec& terms) {
    switch (want.state.codec) {
      case twins::Codec::f32:
        return compare_values(got.values, want.state.values, terms);
      case twins::Codec::bf16:
        for (std::size_t i = 0; i < got.numel; ++i) {
          compare_bf16(got.values[i], want.state.values[i], want.term_margin[i], terms[i], "state");
        }
        return;
      case twins::Codec::fp8:
        compare_ranges(got, want, largest_of_blocks(terms, 128));
        return compare_codes(got, want);
      default:
        compare_values(got.scale,
                       want.state.scale,
                       largest_of_blocks(terms, twins::block_of(want.state.codec)));
        return compare_codes(got, want);
    }
  }
  /// Of all elements, at most one in 10^5 differs. One is always allowed.
  void expect_few_flips(double rate = 1e-5) const {
    EXPECT_LE(static_cast<double>(flips), std::ceil(rate * static_cast<double>(elements)));
  }
  void report(const std::string& name) const {
    if (std::getenv("STRATA_TEST_REPORT") != nullptr) {
      std::printf("%-44s weights %.1e state %.1e flips %ld of %ld (%.1e), ties %ld\n",
                  name.c_str(),
                  weights,
                  state,
                  static_cast<long>(flips),
                  static_cast<long>(elements),
                  elements == 0 ? 0. : static_cast<double>(flips) / static_cast<double>(elements),
                  static_cast<long>(ties));
    }
  }

 private:
  static twins::Vec largest_of_blocks(const twins::Vec& terms, std::size_t block) {
    twins::Vec out((terms.size() + block - 1) / block);
    for (std::size_t i = 0; i < terms.size(); ++i) {
      out[i / block] = std::max(out[i / block], terms[i]);
    }
    return out;
  }
  static int code_at(const twins::Moment& moment, std::size_t i) {
    return moment.codec == twins::Codec::four_bit ? twins::nibble(moment.codes, i)
                                                  : moment.codes[i];
  }
  /// Codes in the order of what they stand for: E4M3's sign is a bit.
  static int rank_of(const twins::Moment& moment, std::size_t i) {
    const int code = code_at(moment, i);
    return moment.codec == twins::Codec::fp8 && (code & 0x80) != 0 ? -(code & 0x7F) : code;
  }
  void compare_codes(const twins::Moment& got, const twins::Encoded& want) {
    ASSERT_EQ(got.codes.size(), want.state.codes.size());
    for (std::size_t i = 0; i < got.numel; ++i) {
      const int ours = rank_of(got, i), theirs = rank_of(want.state, i);
      const int next = theirs + (ours > theirs ? 1 : -1);
      compare_choice(ours, theirs, next, want.term_margin[i], "code");
      if (::testing::Test::HasFatalFailure()) {
        FAIL() << "element " << i;
      }
    }
    if (got.codec == twins::Codec::four_bit && got.numel % 2 == 1) {
      EXPECT_EQ(got.codes.back() & 15, 0) << "what no element owns";
    }
  }
  /// fp8: equal exponents, the same largest value, a centre as near as its least value is known.
  void compare_ranges(const twins::Moment& got,
                      const twins::Encoded& want,
                      const twins::Vec& terms) {
    const twins::Vec& range = want.state.range;
    ASSERT_EQ(got.range.size(), range.size());
    for (std::size_t j = 0; j < range.size() / 3; ++j) {
      const double* const ours = &got.range[3 * j];
      const double* const theirs = &range[3 * j];
      ASSERT_EQ(ours[1], theirs[1]) << "exponent of group " << j;
      const double top = twins::largest_of(theirs[0], theirs[1], theirs[2]);
      const double error = std::abs(twins::largest_of(ours[0], ours[1], ours[2]) - top) /
                           std::max({top, terms[j], 0x1p-126});
      state = std::max(state, error);
      ASSERT_LE(error, kClose) << "largest of group " << j;
      if (theirs[0] > 0) {
        // The least value may be what is left of a decoded one, which errs by up to 13 ulps:
        // 1 / k is rounded, and multiplies exponents of up to 2^5.
        const double slack = kClose * std::max(1.0, terms[j] / top) + 16 * want.centre_ulp[j];
        ASSERT_NEAR(ours[2] / theirs[2], 1, slack) << "centre " << j;
      }
    }
  }
};

}  // namespace strata::tests
