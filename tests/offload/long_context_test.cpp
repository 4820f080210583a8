#include <cmath>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>

#include "core/schedule.h"
#include "offload/closed_forms.h"
#include "offload/placement.h"
#include "offload/simulator.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};
constexpr int kBlocks = 17, kChosen = 16;  // the last keeps what it has

// Blocks of Llama-3-8B, of which everything is kept but what elementwise operations make again.
constexpr double kProducts = 0.436e9, kWidth = 4096, kKept = 94.2e3, kFlops = 400e12, kLink = 24e9;

double forward_seconds(double length) {
  return length * (kProducts + 2 * length * kWidth) / kFlops;
}

/// Seconds of a step in which so many of the blocks, evenly spread, send what they keep to the host
/// and the others recompute it.
double step_seconds(double length, int swapped) {
  StepShape shape{.blocks = kBlocks, .micro_batches = 1};
  PackSizes sizes{{{PackClass::workspace}, 1}, {{PackClass::workspace, kBlocks - 1}, 1}};
  const auto kept = static_cast<std::int64_t>(kKept * length);
  Placement placement;
  for (int b = 0; b < kBlocks; ++b) {
    for (const PackClass cls : {PackClass::weights, PackClass::grads, PackClass::state}) {
      sizes[{cls, b}] = 0;
    }
    sizes[{PackClass::boundary, b, 0}] = sizes[{PackClass::boundary_grad, b, 0}] = 0;
    const PackKey saved{PackClass::saved, b, 0};
    sizes[saved] = b < kChosen ? kept : 0;
    if (b < kChosen && (b + 1) * swapped / kChosen > b * swapped / kChosen) {
      placement.waits_in[saved] = kHost;
    } else if (b < kChosen) {
      shape.recomputed.push_back(b);
    }
  }
  Timing timing;
  timing.compute_seconds = [=](const Instruction& i) {
    const double forward = forward_seconds(length);
    return i.op == Op::forward || i.op == Op::recompute ? forward
           : i.op == Op::backward                       ? 2 * forward
                                                        : 0.0;
  };
  timing.bytes_per_second = {{{kDevice, kHost}, kLink}, {{kHost, kDevice}, kLink}};
  timing.host_cores = HostCores::beside_device;
  const Program program =
      with_transfers(make_step(shape, Order::layer_major, UpdateMode::immediate),
                     placement,
                     sizes,
                     timing,
                     {{kDevice, 3 * kept}, {kHost, 100 * kept}});
  return simulate(program, sizes, timing).seconds;
}

/// A23: the longer the sequences, the more blocks it pays to swap, as many as the formula says.
/// Where more pay because waiting for a transfer costs little more than computing again, they save
/// little.
TEST(LongContext, A23SwappedBlocksGrowWithTheLength) {
  int before = 0, first = -1;
  for (double length = 4096; length <= 300e3; length *= 1.6) {
    int best = 0;
    std::vector<double> seconds;
    for (int swapped = 0; swapped <= kChosen; ++swapped) {
      seconds.push_back(step_seconds(length, swapped));
      best = seconds.back() < seconds[static_cast<std::size_t>(best)] * 0.9999 ? swapped : best;
    }
    const double formula = swapped_fraction({.rest_bytes = kKept * length,
                                             .forward_seconds = forward_seconds(length),
                                             .backward_seconds = 2 * forward_seconds(length)},
                                            {kLink, kLink},
                                            1ll << 60,
                                            kBlocks);
    EXPECT_GE(best, before) << length;
    const auto by_formula = static_cast<std::size_t>(std::lround(formula * kChosen));
    if (std::abs(best / static_cast<double>(kChosen) - formula) > 1.0 / 8) {
      EXPECT_GE(seconds[static_cast<std::size_t>(best)], 0.96 * seconds[by_formula]) << length;
      EXPECT_GT(best, formula * kChosen) << length;
    }
    before = best;
    first = first < 0 ? best : first;
  }
  EXPECT_LT(first, kChosen / 2);
  EXPECT_EQ(before, kChosen);
}

}  // namespace
}  // namespace strata::offload
