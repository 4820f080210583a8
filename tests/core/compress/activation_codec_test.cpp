#include "core/compress/activation_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/bf16.h"
#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

constexpr RandomKey kKey{.seed = 6, .use = RandomUse::rounding, .a = 3, .b = 1ull << 63};
constexpr ActivationCodec kLossy[] = {
    ActivationCodec::fp8, ActivationCodec::int8, ActivationCodec::int4};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Numbers in [-1, 1) times `scale`.
std::vector<float> noise(std::int64_t n, float scale, std::uint64_t seed = 1) {
  const RandomKey key{.seed = seed, .use = RandomUse::sampling};
  std::vector<float> v;
  for (std::int64_t i = 0; i < n; ++i) {
    v.push_back((uniform(key.words(static_cast<std::uint64_t>(i))[0]) * 2.f - 1.f) * scale);
  }
  return v;
}

/// Values as `dtype` holds them.
struct Stored {
  DType dtype;
  std::vector<float> f32;
  std::vector<bf16> half;
  Stored(DType type, const std::vector<float>& v) : dtype(type), f32(v) {
    for (float& x : f32) {
      half.push_back(to_bf16(x));
      x = dtype == DType::bf16 ? to_float(half.back()) : x;
    }
  }
  Tensor tensor() {
    const Shape shape{static_cast<std::int64_t>(f32.size())};
    return dtype == DType::bf16 ? Tensor(reinterpret_cast<std::byte*>(half.data()), dtype, shape)
                                : Tensor(reinterpret_cast<std::byte*>(f32.data()), dtype, shape);
  }
  std::vector<float> values() const {
    std::vector<float> v = f32;
    for (std::size_t i = 0; dtype == DType::bf16 && i < v.size(); ++i) {
      v[i] = to_float(half[i]);
    }
    return v;
  }
};

std::vector<std::byte> encoded(Stored from, ActivationCodec codec, std::int64_t first = 0) {
  const auto n = static_cast<std::int64_t>(from.f32.size());
  std::vector<std::byte> codes(static_cast<std::size_t>(coded_bytes(codec, n)), std::byte{0xee});
  encode_activation(codes, from.tensor(), codec, kKey, first);
  return codes;
}
std::vector<float> round_trip(const Stored& from, ActivationCodec codec, std::int64_t first = 0) {
  Stored to(from.dtype, std::vector<float>(from.f32.size(), 77.f));
  decode_activation(to.tensor(), encoded(from, codec, first), codec);
  return to.values();
}

void expect_within_bound(const Stored& from, ActivationCodec codec, const char* what) {
  const std::vector<float> got = round_trip(from, codec);
  const auto group = static_cast<std::size_t>(group_numel(codec));
  for (std::size_t g = 0; g < got.size(); g += group) {
    const auto begin = from.f32.begin() + static_cast<std::ptrdiff_t>(g);
    const auto end =
        from.f32.begin() + static_cast<std::ptrdiff_t>(std::min(g + group, got.size()));
    const auto [least, most] = std::minmax_element(begin, end);
    for (std::size_t i = g; i < std::min(g + group, got.size()); ++i) {
      const double bound = coding_error(codec, from.dtype, from.f32[i], *least, *most);
      ASSERT_LE(std::abs(static_cast<double>(got[i]) - from.f32[i]), bound)
          << what << ", " << to_string(codec) << ", " << to_string(from.dtype) << ", element " << i
          << ": " << from.f32[i] << " came back as " << got[i];
    }
  }
}

TEST(ActivationCodec, A21RoundTripsStayWithinTheDeclaredBounds) {
  // Whole groups, several chunks, and tails of every kind.
  for (const std::int64_t n : {1, 5, 64, 127, 128, 257, 4096, 4096 * 3 + 331}) {
    std::vector<float> mixed = noise(n, 1.f);
    for (std::size_t i = 0; i < mixed.size(); ++i) {  // twelve powers of ten in one group
      mixed[i] *= std::pow(10.f, -static_cast<float>(i % 13));
    }
    std::vector<float> offset = noise(n, 0.25f);
    for (float& x : offset) {
      x += 100.f;
    }
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const ActivationCodec codec : kLossy) {
        expect_within_bound({dtype, noise(n, 1.f)}, codec, "random");
        expect_within_bound({dtype, noise(n, 1e-42f)}, codec, "subnormal");
        expect_within_bound({dtype, noise(n, 1e-30f)}, codec, "tiny");
        expect_within_bound({dtype, noise(n, 0x1.fp125f)}, codec, "huge");
        expect_within_bound({dtype, std::vector<float>(mixed)}, codec, "mixed");
        expect_within_bound({dtype, std::vector<float>(offset)}, codec, "offset");
        expect_within_bound(
            {dtype, std::vector<float>(static_cast<std::size_t>(n), -3.f)}, codec, "equal");
        const Stored zeros(dtype, std::vector<float>(static_cast<std::size_t>(n)));
        EXPECT_EQ(round_trip(zeros, codec), zeros.f32);
      }
    }
  }
}

// The bounds say something: values come near them, and the finer codes are nearer.
TEST(ActivationCodec, A21BoundsAreReached) {
  for (const ActivationCodec codec : kLossy) {
    const Stored from(DType::f32, noise(1 << 14, 1.f));
    const std::vector<float> got = round_trip(from, codec);
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double error = std::abs(static_cast<double>(got[i]) - from.f32[i]);
      worst = std::max(worst, error / coding_error(codec, DType::f32, from.f32[i], -1, 1));
    }
    EXPECT_GT(worst, 0.8) << to_string(codec);
  }
}

TEST(ActivationCodec, A21WhatIsNotFiniteNeverBecomesFinite) {
  for (const float bad :
       {kInfinity, -kInfinity, std::nanf(""), -std::nanf(""), 0x1p126f, -0x1p127f}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const ActivationCodec codec : kLossy) {
        const auto group = static_cast<std::size_t>(group_numel(codec));
        for (const std::size_t at : {std::size_t{0}, group - 1, group + 3, 3 * group}) {
          std::vector<float> v = noise(static_cast<std::int64_t>(3 * group + 1), 2.f);
          v[at] = bad;
          const std::vector<float> got = round_trip({dtype, v}, codec);
          for (std::size_t i = 0; i < got.size(); ++i) {
            ASSERT_EQ(std::isnan(got[i]), i / group == at / group)
                << to_string(codec) << ' ' << bad << " at " << at << ", element " << i;
          }
        }
      }
    }
  }
}

TEST(ActivationCodec, A21BytesAreAScaleAGroupAndTheCodes) {
  EXPECT_EQ(coded_bytes(ActivationCodec::fp8, 1280), 1280 + 4 * 10);
  EXPECT_EQ(coded_bytes(ActivationCodec::int8, 1280), 1280 + 4 * 5);
  EXPECT_EQ(coded_bytes(ActivationCodec::int4, 1280), 640 + 4 * 20);
  EXPECT_EQ(coded_bytes(ActivationCodec::fp8, 129), 129 + 8);
  EXPECT_EQ(coded_bytes(ActivationCodec::int8, 257), 257 + 8);
  EXPECT_EQ(coded_bytes(ActivationCodec::int4, 65), 33 + 8);
}

// Four bits forget most of a value, but not on average; the number that rounds an element goes with
// its place.
TEST(ActivationCodec, A21FourBitsAreRightOnAverage) {
  constexpr std::int64_t kRounds = 4096;
  const Stored from(DType::f32, noise(64, 1.f));
  std::vector<double> sum(64);
  for (std::int64_t r = 0; r < kRounds; ++r) {
    const std::vector<float> got = round_trip(from, ActivationCodec::int4, 64 * r);
    for (std::size_t i = 0; i < 64; ++i) {
      sum[i] += static_cast<double>(got[i]);
    }
  }
  for (std::size_t i = 0; i < 64; ++i) {  // five deviations of a mean of numbers half a step off
    EXPECT_NEAR(sum[i] / kRounds, from.f32[i], 5 * (2.0 / 15 / 2) / std::sqrt(kRounds)) << i;
  }
  EXPECT_NE(round_trip(from, ActivationCodec::int4, 0),
            round_trip(from, ActivationCodec::int4, 64));
}

TEST(ActivationCodec, A21NoThreadCountOrInstructionSetChangesABit) {
  const int threads = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  std::vector<float> v = noise(4096 * 5 + 77, 1.f);
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] *= std::pow(10.f, -static_cast<float>(i / 512 % 40));
  }
  v[700] = kInfinity;
  v[9000] = std::nanf("");
  v[12000] = -0.f;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const ActivationCodec codec : kLossy) {
      const Stored from(dtype, v);
      const std::vector<std::byte> codes = encoded(from, codec, 6);
      const std::vector<float> values = round_trip(from, codec, 6);
      for (const cpu::IsaLevel level :
           {cpu::IsaLevel::base, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
        for (const int team : {1, 2, 3}) {
          cpu::force_isa_level(std::min(level, best));
          set_thread_count(team);
          EXPECT_EQ(encoded(from, codec, 6), codes) << to_string(codec) << cpu::to_string(level);
          const std::vector<float> again = round_trip(from, codec, 6);
          volatile long double two = 2;  // not a number behind MMX instructions without their end
          EXPECT_EQ(two * two, 4.0L) << to_string(codec) << cpu::to_string(level);
          EXPECT_EQ(std::memcmp(again.data(), values.data(), 4 * values.size()), 0)
              << to_string(codec) << cpu::to_string(level);
        }
      }
      cpu::force_isa_level(best);
      set_thread_count(threads);
    }
  }
}

}  // namespace
}  // namespace strata
