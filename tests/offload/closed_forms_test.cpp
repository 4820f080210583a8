#include "offload/closed_forms.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace strata::offload {
namespace {

constexpr double kHidden = 4096, kForward = 14336, kKeys = 1024;  // Llama-3-8B

/// Per token: what a block of that shape does and keeps.
constexpr double kProducts = 2 * (kHidden * (2 * kHidden + 2 * kKeys) + 3 * kHidden * kForward);
constexpr double kKept = 8 * kHidden + 4 * kKeys + 4 * kForward;

LongContextBlock block_at(double length, double flops_per_second) {
  const double forward = (kProducts + 2 * length * kHidden) * length / flops_per_second;
  return {.input_bytes = 2 * kHidden * length,
          .attention_bytes = 2 * kHidden * length,
          .rest_bytes = (kKept - 4 * kHidden) * length,
          .forward_seconds = forward,
          .backward_seconds = 2 * forward};
}

TEST(ClosedForms, SwappedFractionIsTheLargestThatFits) {
  const LongContextBlock block{.input_bytes = 10,
                               .attention_bytes = 10,
                               .rest_bytes = 100,
                               .forward_seconds = 1,
                               .backward_seconds = 2};
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {70, 70}, 1000, 4), 0.5);   // to the host
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {700, 20}, 1000, 4), 0.2);  // and back
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {700, 700}, 100, 4), 0.3);  // its room
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {700, 700}, 1000, 4), 1);
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {7, 7}, 1000, 4), 0);
  EXPECT_DOUBLE_EQ(swapped_fraction(block, {70, 70}, 0, 2), 0.5);  // these two never leave
}

TEST(ClosedForms, SwappingIsFreeFromALengthOn) {
  const TokenWork work{.product_flops = kProducts, .attention_width = kHidden};
  EXPECT_NEAR(kProducts, 0.436e9, 0.001e9);
  EXPECT_NEAR(kKept, 94.2e3, 0.1e3);
  EXPECT_EQ(free_swap_length(kKept, work, 80e12, 25e9), 0);
  EXPECT_NEAR(free_swap_length(kKept, work, 400e12, 25e9), 131e3, 1e3);
  // There the copy takes as long as the block.
  const double length = free_swap_length(kKept, work, 400e12, 25e9);
  const double forward = (kProducts + 2 * length * kHidden) / 400e12;
  EXPECT_NEAR(kKept / 25e9, forward, 1e-12);
}

/// A23: as sequences grow, more is swapped, until the host's memory is the limit.
TEST(ClosedForms, A23MoreIsSwappedOfLongerSequences) {
  for (const double flops_per_second : {80e12, 250e12, 400e12}) {
    constexpr std::int64_t kRoom = 1ll << 40;
    double before = 0;
    int grown = 0, limited = 0;
    for (double length = 1024; length <= (1 << 20); length *= 1.25) {
      const LongContextBlock block = block_at(length, flops_per_second);
      const double fraction = swapped_fraction(block, {24e9, 24e9}, kRoom, 32);
      const double by_time = swapped_fraction(block, {24e9, 24e9}, 1ll << 60, 32);
      if (fraction < by_time) {
        ++limited;
        EXPECT_LE(fraction * block.rest_bytes + block.input_bytes + block.attention_bytes,
                  1.0001 * kRoom / 30);
        continue;
      }
      EXPECT_EQ(limited, 0) << "once the host is full it stays so";
      EXPECT_GE(fraction, before);
      grown += fraction > before ? 1 : 0;
      before = fraction;
    }
    EXPECT_GT(limited, 0);
    EXPECT_GT(grown, 0);
  }
}

TEST(ClosedForms, BreakEvenTokens) {
  EXPECT_NEAR(break_even_tokens(12, 80e12, 6e9, 4e9), 50e3, 1);
  EXPECT_NEAR(break_even_tokens(6, 80e12, 6e9, 4e9), 25e3, 1);
  EXPECT_NEAR(break_even_tokens(12, 80e12, 6e9, 4e9, false), 30e3, 1);
  EXPECT_NEAR(break_even_tokens(80e12, 1e9), 10e3, 1);
}

TEST(ClosedForms, BestDeviceShareIsNotWorseThanAnyOther) {
  std::mt19937 engine(7);
  const auto any = [&](double least, double most) {
    return least * std::pow(most / least, static_cast<double>(engine() % 1001) / 1000);
  };
  int inside = 0;
  for (int k = 0; k < 500; ++k) {
    const UpdateWindow window{.params = any(1e8, 1e11),
                              .state_bytes = any(4, 12),
                              .host_updates = any(5e8, 5e9),
                              .device_updates = any(1e10, 1e11),
                              .rates = {any(5e9, 5e10), any(5e9, 5e10)},
                              .up_seconds = any(0.01, 30),
                              .down_seconds = any(0.01, 30),
                              .device_seconds = any(0.01, 60)};
    const DeviceShare best = best_device_share(window);
    EXPECT_DOUBLE_EQ(best.seconds, window_seconds(window, best.fraction));
    for (int share = 0; share <= 1000; ++share) {
      EXPECT_GE(window_seconds(window, share / 1000.0), best.seconds * (1 - 1e-12));
    }
    inside += best.fraction > 0.01 && best.fraction < 0.99 ? 1 : 0;
  }
  EXPECT_GT(inside, 50);
}

TEST(ClosedForms, SerialEfficiency) {
  // 70 GB/s for weights keep half of 70 TFLOPS at 1000 tokens; state needs four times as much.
  EXPECT_DOUBLE_EQ(serial_efficiency(1000, 70e9, 70e12), 0.5);
  EXPECT_DOUBLE_EQ(serial_efficiency(1000.0 / 4, 4 * 70e9, 70e12), 0.5);
  EXPECT_NEAR(serial_efficiency(1e9, 70e9, 70e12), 1, 1e-5);
}

}  // namespace
}  // namespace strata::offload
