#include "offload/simulator.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "core/schedule.h"
#include "offload/placement.h"
#include "offload/shared_capacity.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};

Instruction move(Op op, PackKey key, Tier from, Tier to, int needed_by) {
  return {.op = op,
          .block = key.block,
          .cls = key.cls,
          .tier = to,
          .source = from,
          .needed_by = needed_by};
}

/// Copies at 1 byte a second; backward takes 4, an update 3.
Timing timing(HostCores cores) {
  Timing t;
  t.compute_seconds = [](const Instruction& i) {
    return i.op == Op::backward ? 4.0 : i.op == Op::update ? 3.0 : 0.0;
  };
  for (const Tier a : {kDevice, kHost, kNvme}) {
    for (const Tier b : {kDevice, kHost, kNvme}) {
      t.bytes_per_second[{a, b}] = 1;
    }
  }
  t.host_cores = cores;
  return t;
}

/// Backward of two blocks; the gradient of each goes to the host, where it is updated.
Program updates_in_host() {
  constexpr PackClass kGrads = PackClass::grads;
  Program p;
  p.blocks = 2;
  p.step = {{.op = Op::begin},
            {.op = Op::backward, .block = 1},
            move(Op::save, {kGrads, 1}, kDevice, kHost, 3),
            {.op = Op::update, .block = 1, .tier = kHost},
            {.op = Op::backward, .block = 0},
            move(Op::save, {kGrads, 0}, kDevice, kHost, 6),
            {.op = Op::update, .block = 0, .tier = kHost},
            {.op = Op::end}};
  return p;
}

TEST(Simulator, HostCoresWorkBesideTheDevice) {
  const Program p = updates_in_host();
  const PackSizes sizes{{{PackClass::grads, 0}, 1}, {{PackClass::grads, 1}, 1}};
  const Simulation alone = simulate(p, sizes, timing(HostCores::are_device));
  EXPECT_DOUBLE_EQ(alone.seconds, 2 * (4 + 1 + 3));
  EXPECT_DOUBLE_EQ(alone.bound_seconds(), 2 * (4 + 3));
  EXPECT_DOUBLE_EQ(alone.stalled_seconds(), 2);
  const Simulation beside = simulate(p, sizes, timing(HostCores::beside_device));
  EXPECT_DOUBLE_EQ(beside.at[4].begin, 4);  // nobody waits to issue
  EXPECT_DOUBLE_EQ(beside.at[3].begin, 5);  // the update for its gradient
  EXPECT_DOUBLE_EQ(beside.at[5].begin, 8);  // the copy for what it copies
  EXPECT_DOUBLE_EQ(beside.seconds, 2 * 4 + 1 + 3);
  EXPECT_DOUBLE_EQ(beside.bound_seconds(), 2 * 4);
  EXPECT_DOUBLE_EQ(beside.host_seconds, 2 * 3);
}

/// One block whose update of 3 s follows a backward of 4; its state comes and goes in `bytes` s
/// each.
Program state_in_file(bool runs_on) {
  const PackKey state{PackClass::state, 0};
  Program p;
  p.blocks = 1;
  p.step = {{.op = Op::begin},
            move(Op::fetch, state, kNvme, kDevice, runs_on ? 0 : 3),
            {.op = Op::backward, .block = 0},
            {.op = Op::update, .block = 0},
            move(Op::evict, state, kDevice, kNvme, runs_on ? 3 : 5),
            {.op = Op::end}};
  return p;
}

TEST(Simulator, WhatRunsOnHidesBehindTheNextStep) {
  for (const HostCores cores : {HostCores::are_device, HostCores::beside_device}) {
    const auto seconds = [&](std::int64_t bytes, bool runs_on) {
      const PackSizes sizes{{{PackClass::state, 0}, bytes}};
      return simulate(state_in_file(runs_on), sizes, timing(cores)).seconds;
    };
    EXPECT_DOUBLE_EQ(seconds(2, false), 4 + 3 + 2);
    EXPECT_DOUBLE_EQ(seconds(2, true), 4 + 3) << "fetch and evict are hidden";
    Program p = state_in_file(true);
    std::swap(p.step[1], p.step[2]);  // backward, fetch, update
    p.step[2].needed_by = 3;
    const PackSizes sizes{{{PackClass::state, 0}, 2}};
    EXPECT_DOUBLE_EQ(simulate(p, sizes, timing(cores)).seconds, 4 + 2 + 3) << "the evict is hidden";
  }
}

TEST(Simulator, StepsThatRunIntoEachOtherAreNoFasterThanTheBound) {
  Program p = state_in_file(true);
  p.step[1].needed_by = 3;
  for (const std::int64_t bytes : {1, 5, 20}) {
    for (const bool shared : {false, true}) {
      Timing t = timing(HostCores::are_device);
      if (shared) {
        t.shared = {{{{kNvme, kDevice}, {kDevice, kNvme}}, 1.0}};
      }
      const PackSizes sizes{{{PackClass::state, 0}, bytes}};
      const Simulation s = simulate(p, sizes, t);
      EXPECT_GE(s.seconds, s.bound_seconds() * (1 - 1e-9)) << bytes;
      EXPECT_EQ(s.at.size(), p.step.size());
      EXPECT_EQ(s.moved_bytes.at({kNvme, kDevice}), bytes);
      EXPECT_DOUBLE_EQ(s.compute_seconds, 7);
    }
  }
}

TEST(Simulator, UpdatesInTheHostWaitForTheDecision) {
  Program p = updates_in_host();
  std::rotate(p.step.begin() + 3, p.step.begin() + 4, p.step.begin() + 6);
  p.step[2].needed_by = 6;
  p.step[4].needed_by = 7;
  p.step.insert(p.step.begin() + 5, {.op = Op::decide});
  const Simulation s = simulate(p,
                                {{{PackClass::grads, 0}, 1}, {{PackClass::grads, 1}, 1}},
                                timing(HostCores::beside_device));
  ASSERT_EQ(p.step[6].block, 1);
  EXPECT_DOUBLE_EQ(s.at[2].end, 5);
  EXPECT_DOUBLE_EQ(s.at[6].begin, 8);  // its gradient has been there for a while
  EXPECT_DOUBLE_EQ(s.seconds, 14);
}

/// Three blocks: what the host has not taken over yet holds the device up, and the other way round.
TEST(Simulator, HostAndDeviceAreAtMostOneBlockApart) {
  Program p;
  p.blocks = 3;
  PackSizes sizes;
  p.step = {{.op = Op::begin}};
  for (int b = 2; b >= 0; --b) {
    const PackKey grads{PackClass::grads, b};
    const int update = static_cast<int>(p.step.size()) + 2;
    p.step.push_back({.op = Op::backward, .block = b});
    p.step.push_back(move(Op::save, grads, kDevice, kHost, update));
    p.step.push_back({.op = Op::update, .block = b, .tier = kHost});
    sizes[grads] = 10;
  }
  Timing t = timing(HostCores::beside_device);
  const Simulation slow_copies = simulate(p, sizes, t);
  EXPECT_DOUBLE_EQ(slow_copies.at[4].begin, 4);
  EXPECT_DOUBLE_EQ(slow_copies.at[7].begin, 4 + 10);  // not 4 + 4
  t.bytes_per_second[{kDevice, kHost}] = 10;
  t.compute_seconds = [](const Instruction& i) {
    return i.op == Op::backward ? 4.0 : i.op == Op::update ? 10.0 : 0.0;
  };
  const Simulation slow_updates = simulate(p, sizes, t);
  EXPECT_DOUBLE_EQ(slow_updates.at[5].begin, 8);           // while the first block is updated
  EXPECT_DOUBLE_EQ(slow_updates.at[8].begin, 4 + 1 + 10);  // not 12
}

TEST(Simulator, WhatComesWaitsForTheRoomThatIsLeft) {
  const PackKey goes{PackClass::state, 0}, comes{PackClass::state, 1}, too{PackClass::weights, 1};
  Program p;
  p.blocks = 2;
  p.step = {{.op = Op::backward, .block = 0},
            move(Op::evict, goes, kDevice, kHost, 2),
            move(Op::fetch, comes, kHost, kDevice, 4),
            move(Op::fetch, too, kNvme, kDevice, 4),
            {.op = Op::backward, .block = 1}};
  const Simulation s =
      simulate(p, {{goes, 5}, {comes, 1}, {too, 1}}, timing(HostCores::beside_device));
  EXPECT_DOUBLE_EQ(s.at[2].begin, 4 + 5);
  EXPECT_DOUBLE_EQ(s.at[3].begin, 4 + 5);
  EXPECT_DOUBLE_EQ(s.at[4].begin, 4 + 5 + 1);
}

TEST(Simulator, LinksOfOneDriveShareIt) {
  EXPECT_EQ(shared_rates(std::vector{6.0}, 5), std::vector{6.0});
  EXPECT_EQ(shared_rates(std::vector{6.0, 4.0}, 5), (std::vector{2.5, 2.5}));
  EXPECT_EQ(shared_rates(std::vector{10.0, 1.0, 10.0}, 7), (std::vector{3.0, 1.0, 3.0}));
  EXPECT_EQ(shared_rates(std::vector{1.0, 2.0}, 7), (std::vector{1.0, 2.0}));

  const PackKey read{PackClass::state, 0}, written{PackClass::state, 1};
  Program p;
  p.blocks = 2;
  p.step = {{.op = Op::begin},
            move(Op::fetch, read, kNvme, kHost, 3),
            move(Op::evict, written, kHost, kNvme, 3),
            {.op = Op::end}};
  Timing t = timing(HostCores::are_device);
  t.bytes_per_second[{kNvme, kHost}] = 6;
  t.bytes_per_second[{kHost, kNvme}] = 4;
  const PackSizes sizes{{read, 60}, {written, 40}};
  EXPECT_DOUBLE_EQ(simulate(p, sizes, t).seconds, 10);
  t.shared = {{{{kNvme, kHost}, {kHost, kNvme}}, 5}};
  const Simulation s = simulate(p, sizes, t);
  EXPECT_DOUBLE_EQ(s.at[2].end, 16);             // 40 at half of 5
  EXPECT_DOUBLE_EQ(s.at[1].end, 16 + 20.0 / 6);  // 40 so, then 20 alone
  EXPECT_DOUBLE_EQ(s.shared_seconds, 20 / (2.5 / 6 + 2.5 / 4));
  EXPECT_LE(s.bound_seconds(), s.seconds);
  t.latency_seconds = 1;  // takes nothing of the drive
  EXPECT_DOUBLE_EQ(simulate(p, sizes, t).seconds, 17 + 20.0 / 6);
}

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

struct Whole {
  Program program;
  PackSizes sizes;
  Timing timing;
};

/// A step that uses all tiers.
Whole whole_step(UpdateMode mode, HostCores cores) {
  const StepShape shape{.blocks = 6, .micro_batches = 2};
  Whole w{make_step(shape, Order::layer_major, mode), {}, timing(cores)};
  w.sizes[{PackClass::workspace}] = w.sizes[{PackClass::workspace, 5}] = 1;
  for (int b = 0; b < 6; ++b) {
    for (const PackClass cls : {PackClass::weights,
                                PackClass::weights_next,
                                PackClass::grads,
                                PackClass::state,
                                PackClass::state_next}) {
      w.sizes[{cls, b}] = 2;
    }
    for (const int mb : {0, 1}) {
      w.sizes[{PackClass::saved, b, mb}] = 3;
      w.sizes[{PackClass::boundary, b, mb}] = w.sizes[{PackClass::boundary_grad, b, mb}] = 1;
    }
  }
  const Tiers tiers{
      .weights = kHost, .state = kNvme, .grads = kHost, .activations = kHost, .update = kHost};
  w.program = with_transfers(
      w.program, placement_of(tiers, w.sizes), w.sizes, w.timing, {{kDevice, 30}, {kHost, 90}});
  return w;
}

/// The engine that goes from event to event and the one that goes from instruction to instruction
/// agree where nothing is shared.
TEST(Simulator, ACapacityThatNobodyExceedsChangesNothing) {
  for (const HostCores cores : {HostCores::are_device, HostCores::beside_device}) {
    Whole w = whole_step(UpdateMode::immediate, cores);
    const Simulation apart = simulate(w.program, w.sizes, w.timing);
    w.timing.shared = {{{{kNvme, kHost}, {kHost, kNvme}, {kHost, kDevice}}, 1000}};
    const Simulation shared = simulate(w.program, w.sizes, w.timing);
    for (std::size_t k = 0; k < apart.at.size(); ++k) {
      EXPECT_NEAR(apart.at[k].begin, shared.at[k].begin, 1e-9);
      EXPECT_NEAR(apart.at[k].end, shared.at[k].end, 1e-9);
    }
    w.timing.shared.front().bytes_per_second = 1;
    EXPECT_GT(simulate(w.program, w.sizes, w.timing).seconds, apart.seconds);
  }
}

/// What is the same under every placement: nothing is done twice at a time by one resource, nobody
/// uses what is not there, and no order beats the bound.
TEST(Simulator, HostCoresBesideTheDeviceObeyTheProgram) {
  for (const UpdateMode mode :
       {UpdateMode::after_norm, UpdateMode::speculative, UpdateMode::immediate}) {
    const Whole w = whole_step(mode, HostCores::beside_device);
    const Simulation s = simulate(w.program, w.sizes, w.timing);
    std::map<Tier, double> free;
    std::map<PackKey, double> last;  // end of the last transfer of a pack
    for (std::size_t k = 0; k < w.program.step.size(); ++k) {
      const Instruction& i = w.program.step[k];
      if (!is_move(i.op)) {
        EXPECT_GE(s.at[k].begin, free[i.tier]) << k;
        free[i.tier] = s.at[k].end;
      } else if (runs(i.when, Outcome::clip_is_one) && !i.clean) {
        EXPECT_GE(s.at[k].begin, last[i.key()]) << k;
        last[i.key()] = s.at[k].end;
        const auto user = static_cast<std::size_t>(due(i, static_cast<int>(k)));
        const double at = s.at[user].begin + (runs_on(i, static_cast<int>(k)) ? s.seconds : 0);
        EXPECT_GE(at, s.at[k].end) << k << " is due at " << user;
      }
    }
    Timing serial = w.timing;
    serial.host_cores = HostCores::are_device;
    const double one_by_one = simulate(w.program, w.sizes, serial).seconds;
    EXPECT_LE(s.seconds, mode == UpdateMode::immediate ? 0.9 * one_by_one : one_by_one);
    EXPECT_GE(s.seconds, s.bound_seconds());
  }
}

}  // namespace
}  // namespace strata::offload
