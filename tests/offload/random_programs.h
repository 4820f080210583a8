#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "core/philox.h"
#include "core/schedule.h"
#include "offload/transfers.h"

namespace strata::offload::tests {

inline constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0},
    kNvme{TierKind::nvme, 0};

/// Choices that a seed makes.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : key_{seed, RandomUse::sampling, 0, 0} {}
  int below(int count) {
    return static_cast<int>(key_.words(drawn_++)[0] % static_cast<std::uint32_t>(count));
  }
  bool one_in(int count) { return below(count) == 0; }
  Tier tier() { return std::vector{kDevice, kHost, kNvme}[static_cast<std::size_t>(below(3))]; }

 private:
  RandomKey key_;
  std::uint64_t drawn_ = 0;
};

struct Drawn {
  StepShape shape;
  Order order = Order::micro_batch_major;
  UpdateMode mode = UpdateMode::after_norm;
  PackSizes sizes;
  Placement placement;
};

inline void draw_packs(Drawn& d, Dice& dice) {
  const auto add = [&](PackKey key) {
    d.sizes[key] = 4096 * (1 + dice.below(6));
    return key;
  };
  const int last = d.shape.blocks - 1;
  add({PackClass::workspace});
  add({PackClass::workspace, last});
  for (int b = 0; b <= last; ++b) {
    for (const auto& [now, next] : {std::pair{PackClass::weights, PackClass::weights_next},
                                    {PackClass::state, PackClass::state_next}}) {
      d.placement.homes[add({now, b})] = dice.tier();
      d.sizes[{next, b}] = d.sizes[{now, b}];
      d.placement.waits_in[{next, b}] = dice.tier();
    }
    const Tier grads = dice.tier();
    d.placement.homes[{PackClass::grads, b}] = d.placement.waits_in[{PackClass::grads, b}] = grads;
    add({PackClass::grads, b});
    for (int mb = 0; mb < d.shape.micro_batches; ++mb) {
      for (const PackClass cls :
           {PackClass::saved, PackClass::boundary, PackClass::boundary_grad}) {
        d.placement.waits_in[add({cls, b, mb})] = dice.tier();
      }
    }
    if (dice.one_in(2)) {
      d.placement.update_in[b] = kHost;
    }
  }
  d.placement.waits_in[add({PackClass::borrowed_grads, last})] = dice.tier();
}

/// A computation of a few blocks, bytes anywhere.
inline Drawn draw(std::uint64_t seed) {
  Dice dice(seed);
  Drawn d;
  d.shape.blocks = 2 + dice.below(5);
  d.shape.micro_batches = 1 + dice.below(3);
  d.shape.stat_phases = dice.below(2);
  if (dice.one_in(2)) {
    d.shape.borrows = {{d.shape.blocks - 1, 0}};
  }
  for (int b = 0; b + 1 < d.shape.blocks; ++b) {
    if (dice.one_in(3)) {
      d.shape.recomputed.push_back(b);
    }
  }
  d.order = dice.one_in(2) ? Order::layer_major : Order::micro_batch_major;
  d.mode = std::vector{UpdateMode::after_norm,
                       UpdateMode::speculative,
                       UpdateMode::immediate,
                       UpdateMode::lazy_forward,
                       UpdateMode::hybrid}[seed % 5];
  d.shape = with_updates(d.shape, d.mode, dice.below(d.shape.blocks + 1));
  draw_packs(d, dice);
  return d;
}

inline Timing even_timing() {
  Timing t;
  t.compute_seconds = [](const Instruction&) { return 1e-5; };
  for (const Tier a : {kDevice, kHost, kNvme}) {
    for (const Tier b : {kDevice, kHost, kNvme}) {
      t.bytes_per_second[{a, b}] = 1e9;
    }
  }
  return t;
}

}  // namespace strata::offload::tests
