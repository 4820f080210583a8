// Virtual time on a program small enough to follow by hand.
#include "offload/simulator.h"

#include <gtest/gtest.h>

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};

Instruction fetch(PackClass cls, int block, Tier source, int needed_by) {
  return {.op = Op::fetch,
          .block = block,
          .cls = cls,
          .tier = kDevice,
          .source = source,
          .needed_by = needed_by};
}

/// Weights of block 0 are late by 1 s; those of block 1 by 2 s, and its state by 8 s.
TEST(Simulator, StallsAreOfTheTransferThatComesLast) {
  Program p;
  p.step = {fetch(PackClass::weights, 0, kHost, 3),
            fetch(PackClass::weights, 1, kHost, 5),
            {.op = Op::forward, .block = 2},
            {.op = Op::forward, .block = 0},
            fetch(PackClass::state, 1, kNvme, 5),
            {.op = Op::update, .block = 1}};
  const PackSizes sizes{
      {{PackClass::weights, 0}, 3}, {{PackClass::weights, 1}, 4}, {{PackClass::state, 1}, 4}};
  Timing timing;
  timing.compute_seconds = [](const Instruction& i) { return i.op == Op::update ? 1.0 : 2.0; };
  timing.bytes_per_second = {{{kHost, kDevice}, 1}, {{kNvme, kDevice}, 0.5}};
  const Simulation s = simulate(p, sizes, timing);
  // forward 0 .. 2, waits until 3, forward 3 .. 5, waits for 5 + 8, update 13 .. 14
  EXPECT_EQ(s.seconds, 14);
  EXPECT_EQ(s.compute_seconds, 5);
  EXPECT_EQ(s.stalled_seconds(), 9);
  const std::map<Cause, double> causes{{{{kHost, kDevice}, PackClass::weights}, 1},
                                       {{{kNvme, kDevice}, PackClass::state}, 8}};
  EXPECT_EQ(s.stalls_by_cause, causes);
  EXPECT_EQ(s.bound_seconds(), 8);
  EXPECT_EQ(s.bound_by(), "nvme -> device");
  timing.bytes_per_second = {{{kHost, kDevice}, 1e9}, {{kNvme, kDevice}, 1e9}};
  EXPECT_EQ(simulate(p, sizes, timing).bound_by(), "compute");
}

}  // namespace
}  // namespace strata::offload
