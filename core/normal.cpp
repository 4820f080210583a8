#include "core/normal.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/random_words.h"

namespace strata {
namespace {

constexpr std::int64_t kDraws = 16, kBatch = 4 * kDraws;  // elements that are made together

// Logarithm, sine and cosine in double by + - * / alone (coefficients of fdlibm), so that bits
// agree over machines and the loop vectorises. Errors below 2^-51 vanish in the float.

/// ln x of a positive normal number.
double log_of(double x) {
  // x = m 2^k with m in [sqrt(1/2), sqrt(2)).
  constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e00000000u, kMantissa = 0x000fffffffffffffu;
  const std::uint64_t bits =
      std::bit_cast<std::uint64_t>(x) - kSqrtHalf + (std::uint64_t{1024} << 52);
  // An integer below 2^52 put into the mantissa of 2^52 is a number without a conversion.
  const double k = std::bit_cast<double>((bits >> 52) | 0x4330000000000000u) - (0x1p52 + 1024.0);
  const double f = std::bit_cast<double>((bits & kMantissa) + kSqrtHalf) - 1.0;
  const double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
  double r = 1.479819860511658591e-01;
  r = r * z + 1.531383769920937332e-01;
  r = r * z + 1.818357216161805012e-01;
  r = r * z + 2.222219843214978396e-01;
  r = r * z + 2.857142874366239149e-01;
  r = r * z + 3.999999999940941908e-01;
  r = r * z + 6.666666666666735130e-01;
  const double tail = s * (half + r * z) + k * 1.90821492927058770002e-10;
  return k * 6.93147180369123816490e-01 - ((half - tail) - f);
}

/// Of x in [-pi / 4, pi / 4].
double sine_of(double x) {
  const double z = x * x;
  double r = 1.58969099521155010221e-10;
  r = r * z - 2.50507602534068634195e-08;
  r = r * z + 2.75573137070700676789e-06;
  r = r * z - 1.98412698298579493134e-04;
  r = r * z + 8.33333333332248946124e-03;
  r = r * z - 1.66666666666666324348e-01;
  return x + x * z * r;
}
double cosine_of(double x) {
  const double z = x * x;
  double r = -1.13596475577881948265e-11;
  r = r * z + 2.08757232129817482790e-09;
  r = r * z - 2.75573143513906633035e-07;
  r = r * z + 2.48015872894767294178e-05;
  r = r * z - 1.38888888888741095749e-03;
  r = r * z + 4.16666666666666019037e-02;
  return 1.0 - (0.5 * z - z * z * r);
}

/// z (kBatch) from as many words, two from two by Box and Muller.
void normals(double* z, const std::uint32_t* words) {
#pragma omp simd
  for (std::int64_t p = 0; p < kBatch / 2; ++p) {
    const double u = (static_cast<double>(words[2 * p]) + 1.0) * 0x1p-32;  // (0, 1]
    const double radius = std::sqrt(-2.0 * log_of(u));
    // A full turn is 2^32: the nearest quarter, and what is left of it in [-1/8, 1/8) turns.
    const std::uint32_t turned = words[2 * p + 1] + 0x20000000u;
    const std::uint32_t quarter = turned >> 30;
    const auto left = static_cast<std::int32_t>(turned & 0x3fffffffu) - 0x20000000;
    const double angle = static_cast<double>(left) * (2.0 * std::numbers::pi * 0x1p-32);
    const double s = sine_of(angle), c = cosine_of(angle);
    const bool swapped = (quarter & 1u) != 0u;
    const double along = swapped ? s : c, across = swapped ? c : s;
    z[2 * p] = radius * (quarter == 1u || quarter == 2u ? -along : along);
    z[2 * p + 1] = radius * (quarter >= 2u ? -across : across);
  }
}

/// v (kBatch) in (-1, 1) from as many words.
void uniforms(double* v, const std::uint32_t* words) {
#pragma omp simd
  for (std::int64_t i = 0; i < kBatch; ++i) {
    v[i] = (static_cast<double>(words[i]) + 0.5) * 0x1p-31 - 1.0;
  }
}

/// to[i] = mean + by * value(first + i), where `make` turns a batch of words into values.
template <class Make>
void fill(std::span<float> to,
          const RandomKey& key,
          std::int64_t first,
          double mean,
          double by,
          const Make& make) {
  const auto fill_range = [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[kBatch];
    double z[kBatch];
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t draw = (first + i) / 4, skipped = (first + i) % 4;
      const std::int64_t count = std::min(kBatch - skipped, end - i);
      fill_words(words, key, static_cast<std::uint64_t>(draw), kDraws);
      float* out = to.data() + i;
      cpu::simd([&] {
        make(z, words);
        for (std::int64_t j = 0; j < count; ++j) {
          out[j] = static_cast<float>(mean + by * z[skipped + j]);
        }
      });
      i += count;
    }
  };
  parallel_for(static_cast<std::int64_t>(to.size()), kChunk, fill_range);
}

}  // namespace

void fill_normal(
    std::span<float> to, const RandomKey& key, std::int64_t first, double mean, double deviation) {
  fill(to, key, first, mean, deviation, [](double* z, const std::uint32_t* words) {
    normals(z, words);
  });
}

void fill_uniform(
    std::span<float> to, const RandomKey& key, std::int64_t first, double mean, double bound) {
  fill(to, key, first, mean, bound, [](double* v, const std::uint32_t* words) {
    uniforms(v, words);
  });
}

}  // namespace strata
