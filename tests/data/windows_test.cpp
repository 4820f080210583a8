#include <algorithm>
#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/tokens.h"
#include "tests/support/errors.h"

namespace strata::data {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

/// Token i is 10 i.
class Tens final : public TokenStream {
 public:
  explicit Tens(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    ASSERT_LE(begin + static_cast<std::int64_t>(to.size()), size_);
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] = static_cast<std::int32_t>(10 * (begin + static_cast<std::int64_t>(i)));
    }
  }

 private:
  std::int64_t size_;
};

Ids values(const Tensor& tensor) {
  const auto* data = tensor.data<std::int32_t>();
  return {data, data + tensor.numel()};
}

Ids epoch_of(const WindowSampler& sampler, std::int64_t epoch) {
  Ids starts;
  for (std::int64_t i = 0; i < sampler.windows(); ++i) {
    starts.push_back(static_cast<std::int32_t>(sampler.start_of(epoch * sampler.windows() + i)));
  }
  return starts;
}

TEST(WindowSampler, AnEpochTilesTheStreamOnce) {
  constexpr std::int64_t kT = 8;
  for (const std::int64_t size : {9, 16, 17, 24, 25, 26, 33, 1000, 65537}) {
    const Tens stream(size);
    const WindowSampler sampler(stream, kT, 42);
    for (const std::int64_t epoch : {0, 1, 7}) {
      Ids starts = epoch_of(sampler, epoch);
      std::sort(starts.begin(), starts.end());
      EXPECT_GE(starts.front(), 0);
      EXPECT_LE(starts.back(), size - kT - 1) << "the last target must exist";
      for (std::size_t i = 1; i < starts.size(); ++i) {
        ASSERT_EQ(starts[i] - starts[i - 1], kT) << "size " << size << ", epoch " << epoch;
      }
      EXPECT_GT(std::ssize(starts) * kT, size - 3 * kT) << "hardly a token is left out";
    }
  }
}

TEST(WindowSampler, EveryStartOccurs) {
  const Tens stream(50);
  const WindowSampler sampler(stream, 4, 1);
  std::map<std::int32_t, int> seen;
  for (std::int64_t epoch = 0; epoch < 400; ++epoch) {
    for (const std::int32_t start : epoch_of(sampler, epoch)) {
      ++seen[start];
    }
  }
  EXPECT_EQ(seen.size(), 46u);
}

TEST(WindowSampler, EpochsAndSeedsDiffer) {
  const Tens stream(1008);
  const WindowSampler a(stream, 8, 1), b(stream, 8, 2), again(stream, 8, 1);
  EXPECT_NE(epoch_of(a, 0), epoch_of(a, 1));
  EXPECT_NE(epoch_of(a, 0), epoch_of(b, 0));
  EXPECT_NE(epoch_of(a, 1), epoch_of(b, 0));
  EXPECT_EQ(epoch_of(a, 5), epoch_of(again, 5));
}

TEST(WindowSampler, AllOrdersOfThreeOccurEquallyOften) {
  const Tens stream(5);
  const WindowSampler sampler(stream, 1, 3);
  ASSERT_EQ(sampler.windows(), 3);
  std::map<Ids, int> seen;
  for (std::int64_t epoch = 0; epoch < 6000; ++epoch) {
    Ids order = epoch_of(sampler, epoch);
    const std::int32_t offset = *std::min_element(order.begin(), order.end());
    for (std::int32_t& start : order) {
      start -= offset;
    }
    ++seen[order];
  }
  ASSERT_EQ(seen.size(), 6u);
  for (const auto& [order, count] : seen) {
    EXPECT_NEAR(count, 1000, 6 * std::sqrt(1000.0 * 5 / 6)) << ::testing::PrintToString(order);
  }
}

TEST(WindowSampler, EveryPartOfAnEpochCoversTheStreamEvenly) {
  // The first tenth of an epoch, in 16 equal parts of the stream; hypergeometric counts.
  constexpr std::int64_t kWindows = 64000, kDrawn = 6400, kParts = 16;
  const Tens stream(kWindows + 2);
  const WindowSampler sampler(stream, 1, 9);
  ASSERT_EQ(sampler.windows(), kWindows);
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<int> counts(kParts);
    double products = 0, squares = 0, before = 0;
    for (std::int64_t i = 0; i < kDrawn; ++i) {
      const std::int64_t start = sampler.start_of(epoch * kWindows + i);
      ++counts[static_cast<std::size_t>(start * kParts / (kWindows + 1))];
      const double centred = static_cast<double>(start) / kWindows - 0.5;
      products += centred * before;
      squares += centred * centred;
      before = centred;
    }
    const double mean = 1.0 * kDrawn / kParts;
    for (const int count : counts) {
      EXPECT_NEAR(count, mean, 5 * std::sqrt(mean));
    }
    EXPECT_NEAR(products / squares, 0, 5 / std::sqrt(kDrawn));  // neighbours do not resemble
  }
}

TEST(WindowSampler, TargetsAreTheNextTokens) {
  const Tens stream(50);
  const WindowSampler sampler(stream, 4, 1);
  MicroBatch batch;
  sampler.fill(batch, 17, 3);
  EXPECT_EQ(batch.first_sample, 17);
  const Ids tokens = values(batch.tokens), targets = values(batch.targets);
  ASSERT_EQ(tokens.size(), 12u);
  for (std::size_t b = 0; b < 3; ++b) {
    const std::int64_t start = sampler.start_of(17 + static_cast<std::int64_t>(b));
    for (std::size_t t = 0; t < 4; ++t) {
      EXPECT_EQ(tokens[4 * b + t], 10 * (start + static_cast<std::int64_t>(t)));
      EXPECT_EQ(targets[4 * b + t], tokens[4 * b + t] + 10);
    }
  }
  EXPECT_EQ(values(batch.positions), (Ids{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(values(batch.documents), Ids(12, 0));
}

TEST(WindowSampler, ASampleIsItsIndexWhateverTheBatch) {
  const Tens stream(500);
  const WindowSampler sampler(stream, 4, 1), other(stream, 4, 1);
  MicroBatch whole, part;
  sampler.fill(whole, 100, 6);
  other.fill(part, 104, 2);
  EXPECT_EQ(values(whole.tokens.rows(4, 6)), values(part.tokens));
  const std::byte* place = part.tokens.bytes();
  other.fill(part, 100, 2);
  EXPECT_EQ(part.tokens.bytes(), place);
  EXPECT_EQ(values(whole.tokens.rows(0, 2)), values(part.tokens));
}

TEST(WindowSampler, ShortStreamsAreRefused) {
  const Tens stream(8), enough(9);
  EXPECT_THAT(tests::expect_error(Errc::data, {}, [&] { WindowSampler(stream, 8, 1); }),
              HasSubstr("at least 9, got 8"));
  EXPECT_EQ(WindowSampler(enough, 8, 1).start_of(12345), 0);
}

TEST(Evaluation, EveryTargetOnceAndInOrder) {
  for (const std::int64_t n : {2, 4, 5, 6, 9, 10}) {
    for (const std::int64_t T : {1, 3, 4, 20}) {
      const Tens stream(n);
      const std::int64_t windows = evaluation_windows(stream, T);
      EXPECT_EQ(windows, (n - 1 + T - 1) / T);
      Ids seen;
      for (std::int64_t w = 0; w < windows; w += 2) {
        MicroBatch batch;
        fill_evaluation(stream, T, w, 2, batch);  // the last batch may reach past the end
        const Ids tokens = values(batch.tokens), targets = values(batch.targets);
        for (std::size_t i = 0; i < targets.size(); ++i) {
          if (targets[i] != kMasked) {
            EXPECT_EQ(targets[i], tokens[i] + 10);
            seen.push_back(targets[i]);
          } else {
            EXPECT_EQ(tokens[i], 0);
          }
        }
      }
      Ids expected;
      for (std::int64_t i = 1; i < n; ++i) {
        expected.push_back(static_cast<std::int32_t>(10 * i));
      }
      EXPECT_EQ(seen, expected) << "n = " << n << ", T = " << T;
    }
  }
}

TEST(Evaluation, ASingleTokenHasNoTarget) {
  EXPECT_THAT(tests::expect_error(Errc::data, {}, [] { evaluation_windows(Tens(1), 4); }),
              HasSubstr("at least 2 tokens, got 1"));
}

}  // namespace
}  // namespace strata::data
