#include "optim/moments.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "tests/optim/method_harness.h"
#include "tests/support/twins/codes.h"

namespace strata::optim {
namespace {

using tests::twins::Vec;

constexpr double kExcused = 4;  // ulps of a value divided by its scale

/// A moment of n elements with its state.
class Stored {
 public:
  Stored(StateCodec codec,
         bool positive,
         std::int64_t n,
         quant::ZeroCode zero = quant::ZeroCode::half_least)
      : n_(n), moment_{"m", positive} {
    add_moment_fields(layout_, codec, moment_);
    for (const StateField& field : layout_) {
      tensors_.push_back(Tensor::zeros(field.dtype, {field_numel(field, {n}, 0, n)}));
      views_.set(field.name, tensors_.back());
    }
    coded_ = CodedMoment(codec, moment_, views_, RandomKey{.seed = 7}, 0, zero);
  }
  void store(const std::vector<float>& x) const {
    by_tile([&](std::int64_t at, std::int64_t n) { coded_.store(at, n, x.data() + at); });
  }
  std::vector<float> load() const {
    std::vector<float> x(static_cast<std::size_t>(n_) + 1, 77.f);
    by_tile([&](std::int64_t at, std::int64_t n) { coded_.load(at, n, x.data() + at); });
    EXPECT_EQ(x.back(), 77.f);
    x.pop_back();
    return x;
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const Tensor& tensor : tensors_) {
      all.insert(all.end(), tensor.bytes(), tensor.bytes() + tensor.size_bytes());
    }
    return all;
  }
  int code(std::int64_t i) const { return tensors_[0].data<std::uint8_t>()[i]; }
  std::uint8_t* codes() const { return tensors_[0].data<std::uint8_t>(); }
  float* scales() const { return tensors_[1].data<float>(); }
  std::int64_t size_bytes() const { return static_cast<std::int64_t>(bytes().size()); }

 private:
  template <class Body>
  void by_tile(const Body& body) const {
    for_each_tile(n_, body);
  }
  std::int64_t n_;
  Moment moment_;
  StateLayout layout_;
  std::vector<Tensor> tensors_;
  StateViews views_;
  CodedMoment coded_;
};

struct Case {
  StateCodec codec;
  bool positive;
};
constexpr Case kCases[] = {{StateCodec::bf16, false},
                           {StateCodec::bf16, true},
                           {StateCodec::dynamic8, false},
                           {StateCodec::dynamic8, true},
                           {StateCodec::dynamic4, false},
                           {StateCodec::dynamic4, true},
                           {StateCodec::fp8, false},
                           {StateCodec::fp8, true}};

std::vector<float> sample(std::int64_t n, bool positive, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& value : x) {
    const float v = normal(random) * std::exp2(8.f * normal(random));
    value = random() % 32 == 0 ? 0.f : (positive ? std::abs(v) : v);
  }
  return x;
}

const Vec& book(StateCodec codec, bool positive) {
  if (codec == StateCodec::dynamic8) {
    return positive ? tests::twins::unsigned_8bit() : tests::twins::signed_8bit();
  }
  return positive ? tests::twins::unsigned_4bit() : tests::twins::signed_4bit();
}

/// Codes, scales and decoded values of x, element by element from the tables.
void expect_blocks(StateCodec codec, bool positive, const std::vector<float>& x) {
  const auto n = static_cast<std::int64_t>(x.size());
  const std::int64_t block = codec_block(codec);
  const bool packed = codec == StateCodec::dynamic4;
  const Vec& table = book(codec, positive);
  Stored stored(codec, positive, n);
  stored.store(x);
  const std::vector<float> back = stored.load();
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t first = i / block * block, last = std::min(n, first + block);
    float scale = 0;
    for (std::int64_t e = first; e < last; ++e) {
      scale = std::max(scale, std::abs(x[static_cast<std::size_t>(e)]));
    }
    ASSERT_EQ(stored.scales()[i / block], scale);
    const int byte = stored.code(packed ? i / 2 : i);
    const auto code =
        static_cast<std::size_t>(packed ? (i % 2 == 0 ? byte >> 4 : byte & 15) : byte);
    const float value = x[static_cast<std::size_t>(i)];
    if (scale == 0.f) {
      ASSERT_EQ(back[static_cast<std::size_t>(i)], 0.f);
      ASSERT_EQ(code, tests::twins::nearest(table, 0).index);
      continue;
    }
    const auto nearest =
        tests::twins::nearest(table, static_cast<double>(value) / static_cast<double>(scale));
    if (code != nearest.index) {
      ASSERT_LE(nearest.margin, kExcused) << value << " of " << scale;
    }
    const bool floored = positive && codec == StateCodec::dynamic8 && code == 0;
    const double want = (floored ? table[1] / 2 : table[code]) * static_cast<double>(scale);
    ASSERT_NEAR(static_cast<double>(back[static_cast<std::size_t>(i)]),
                want,
                0x1p-23 * std::abs(want) + tests::twins::f32_ulp(want))
        << static_cast<int>(codec) << positive << " " << n << " " << i << " code " << code
        << " scale " << scale;
  }
  if (packed && n % 2 == 1) {
    ASSERT_EQ(stored.code(n / 2) & 15, 0);
  }
}

TEST(CodedMoment, BlocksOfEveryLength) {
  for (const StateCodec codec : {StateCodec::dynamic8, StateCodec::dynamic4}) {
    for (const bool positive : {false, true}) {
      for (std::int64_t n = 1; n <= 300; ++n) {
        expect_blocks(codec, positive, sample(n, positive, static_cast<std::uint32_t>(n)));
      }
      expect_blocks(codec, positive, sample(4096 + 1024 + 77, positive, 9));
    }
  }
}

TEST(CodedMoment, BlocksOfAnySize) {
  for (const StateCodec codec : {StateCodec::dynamic8, StateCodec::dynamic4}) {
    for (const bool positive : {false, true}) {
      // Where the reciprocal of the largest is no normal float, and where it nearly is none.
      for (const float size :
           {1e-44f, 1e-40f, 1e-37f, 1e-20f, 1e-18f, 1e18f, 1e20f, 1e37f, 3e38f}) {
        std::vector<float> x = sample(600, positive, 3);
        float most = 0;
        for (const float value : x) {
          most = std::max(most, std::abs(value));
        }
        for (float& value : x) {
          value = static_cast<float>(static_cast<double>(value) / static_cast<double>(most) *
                                     static_cast<double>(size));
        }
        std::fill(x.begin() + 256, x.begin() + 512, 0.f);
        expect_blocks(codec, positive, x);
      }
    }
  }
}

TEST(CodedMoment, FreshStateIsZeroWhateverItsCodes) {
  for (const auto& [codec, positive] : kCases) {
    const Stored stored(codec, positive, 300);
    for (const float value : stored.load()) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value), 0u);
    }
  }
}

TEST(CodedMoment, ZerosAreStoredAsTheCodeOfZero) {
  const std::vector<float> zeros(300, 0.f);
  const Stored wide(StateCodec::dynamic8, false, 300), four(StateCodec::dynamic4, false, 300);
  wide.store(zeros), four.store(zeros);
  EXPECT_EQ(wide.code(0), 127);
  EXPECT_EQ(wide.code(299), 127);
  EXPECT_EQ(four.code(0), 0x77);
  const Stored fp8(StateCodec::fp8, true, 130);
  fp8.store(std::vector<float>(130, 0.f));
  EXPECT_EQ(fp8.code(129), 0);
  EXPECT_EQ((std::vector<float>{fp8.scales()[3], fp8.scales()[4], fp8.scales()[5]}),
            (std::vector<float>{0.f, 1.f, 1.f}));
}

TEST(CodedMoment, TheFloorOfSecondMomentsIsASetting) {
  std::vector<float> x(256, 1e-9f);
  x[0] = 1.f;
  const Stored floored(StateCodec::dynamic8, true, 256);
  const Stored plain(StateCodec::dynamic8, true, 256, quant::ZeroCode::zero);
  floored.store(x), plain.store(x);
  EXPECT_EQ(floored.bytes(), plain.bytes());
  EXPECT_FLOAT_EQ(floored.load()[1], 0.5f * 3.25e-7f);
  EXPECT_EQ(plain.load()[1], 0.f);
  EXPECT_EQ(plain.load()[0], 1.f);
}

TEST(CodedMoment, EveryCodeComesBack) {
  for (const bool positive : {false, true}) {
    // Of 8 bits in one block; of 4 bits, each byte in the last half of a block that begins with 1.
    const Stored eight(StateCodec::dynamic8, positive, 256, quant::ZeroCode::zero);
    for (int i = 0; i < 256; ++i) {
      eight.codes()[i] = static_cast<std::uint8_t>(i);
    }
    eight.scales()[0] = 0.37f;
    const std::vector<std::byte> before = eight.bytes();
    eight.store(eight.load());
    EXPECT_EQ(eight.bytes(), before);

    const Stored four(StateCodec::dynamic4, positive, 1024);
    for (int i = 0; i < 512; ++i) {
      four.codes()[i] = static_cast<std::uint8_t>(i % 64 == 0 ? 0xff : i / 2);
    }
    std::fill(four.scales(), four.scales() + 8, 0.37f);
    const std::vector<std::byte> packed = four.bytes();
    four.store(four.load());
    EXPECT_EQ(four.bytes(), packed);
  }
}

TEST(CodedMoment, BytesAgreeOverThreadsAndInstructionSets) {
  for (const auto& [codec, positive] : kCases) {
    for (const std::int64_t n : {1, 17, 129, 4096, 9001}) {
      std::vector<float> x = sample(n, positive, 5);
      if (n > 4000) {
        std::fill(x.begin() + 256, x.begin() + 512, 0.f);
        std::fill(x.begin() + 512, x.begin() + 700, 1e-41f);
      }
      std::vector<std::byte> bytes;
      std::vector<float> values;
      for_every_way_to_run([&] {
        const Stored stored(codec, positive, n);
        stored.store(x);
        const std::vector<float> back = stored.load();
        if (bytes.empty()) {
          bytes = stored.bytes(), values = back;
        }
        ASSERT_EQ(stored.bytes(), bytes);
        ASSERT_EQ(std::memcmp(back.data(), values.data(), 4 * back.size()), 0);
      });
    }
  }
}

TEST(CodedMoment, Fp8IsThatOfTheTwin) {
  for (const bool positive : {false, true}) {
    for (const std::int64_t n : {1, 127, 128, 300, 2000}) {
      const std::vector<float> x = sample(n, positive, 6);
      const Stored stored(StateCodec::fp8, positive, n);
      stored.store(x);
      const std::vector<float> back = stored.load();
      for (std::int64_t at = 0; at < n; at += 128) {
        const std::int64_t count = std::min<std::int64_t>(128, n - at);
        const Vec group(x.begin() + at, x.begin() + at + count);
        const float* const range = stored.scales() + at / 128 * 3;
        const auto twin = tests::twins::quantise_expanded(group, static_cast<double>(range[1]));
        EXPECT_NEAR(static_cast<double>(range[0]), twin.scale, 1e-6 * twin.scale * 64);
        for (std::int64_t i = 0; i < count; ++i) {
          const auto e = static_cast<std::size_t>(i);
          const int code = stored.code(at + i);
          if (code != twin.codes[e]) {
            EXPECT_LE(twin.margin[e], kExcused);
          }
          const double want = tests::twins::dequantise_expanded(static_cast<std::uint8_t>(code),
                                                                static_cast<double>(range[0]),
                                                                static_cast<double>(range[1]),
                                                                static_cast<double>(range[2]));
          ASSERT_NEAR(static_cast<double>(back[static_cast<std::size_t>(at + i)]),
                      want,
                      3e-7 * std::abs(want));
        }
      }
    }
  }
}

TEST(CodedMoment, StateHasTheBytesOfTheSpec) {
  for (const std::int64_t n : {1, 128, 256, 257, 5000}) {
    const auto both = [&](StateCodec codec) {
      return Stored(codec, false, n).size_bytes() + Stored(codec, true, n).size_bytes();
    };
    EXPECT_EQ(both(StateCodec::f32), 8 * n);
    EXPECT_EQ(both(StateCodec::bf16), 4 * n);
    EXPECT_EQ(both(StateCodec::dynamic8), 2 * n + 8 * ((n + 255) / 256));
    EXPECT_EQ(both(StateCodec::dynamic4), 2 * ((n + 1) / 2) + 8 * ((n + 127) / 128));
    EXPECT_EQ(both(StateCodec::fp8), 2 * n + 24 * ((n + 127) / 128));
  }
}

}  // namespace
}  // namespace strata::optim
