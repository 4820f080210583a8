#include "offload/placement_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/schedule.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};
constexpr std::int64_t kUnit = 4096;

/// A step of a few blocks on a machine, all of it made up.
struct Instance {
  Program step, evaluation;
  PackSizes sizes;
  Timing timing;
  Budgets budgets;
  std::array<bool, 4> present{};  // by kPackKinds
  PlacementTask task() const { return {{&step, &evaluation}, sizes, timing, budgets}; }
};

class Dice {
 public:
  explicit Dice(unsigned seed) : engine_(seed) {}
  int upto(int most) { return static_cast<int>(engine_() % static_cast<unsigned>(most + 1)); }
  int between(int least, int most) { return least + upto(most - least); }
  /// Even in the logarithm.
  double rate(double least, double most) {
    return least * std::exp(std::log(most / least) * between(0, 1000) / 1000);
  }

 private:
  std::mt19937 engine_;
};

PackSizes random_sizes(Dice& dice, int blocks, int micro_batches, std::array<bool, 4> present) {
  PackSizes s;
  s[{PackClass::workspace}] = kUnit * dice.between(1, 3);
  s[{PackClass::workspace, blocks - 1}] = kUnit * dice.between(1, 3);
  const auto size = [&](std::size_t kind, int least, int most) {
    return present[kind] ? kUnit * dice.between(least, most) : 0;
  };
  for (int b = 0; b < blocks; ++b) {
    s[{PackClass::grads, b}] = size(0, 2, 8);
    s[{PackClass::state, b}] = s[{PackClass::state_next, b}] = size(2, 4, 24);
    s[{PackClass::weights, b}] = s[{PackClass::weights_next, b}] = size(3, 2, 8);
    const std::int64_t saved = size(1, 2, 16), boundary = size(1, 1, 2);
    for (int mb = 0; mb < micro_batches; ++mb) {
      s[{PackClass::saved, b, mb}] = saved;
      s[{PackClass::boundary, b, mb}] = s[{PackClass::boundary_grad, b, mb}] = boundary;
    }
  }
  return s;
}

Timing random_timing(Dice& dice) {
  Timing t;
  const double forward = dice.rate(0.5, 4), on_device = dice.rate(0.1, 1),
               on_host = dice.rate(0.3, 6);
  t.compute_seconds = [=](const Instruction& i) {
    switch (i.op) {
      case Op::forward:
        return forward;
      case Op::backward:
        return 2 * forward;
      case Op::update:
        return i.tier == kDevice ? on_device : on_host;
      default:
        return 0.0;
    }
  };
  const double copy = dice.rate(4, 40), read = dice.rate(1, 10), write = dice.rate(1, 10);
  for (const Tier a : {kDevice, kHost, kNvme}) {
    for (const Tier b : {kDevice, kHost, kNvme}) {
      const double rate = a == kNvme ? read : b == kNvme ? write : copy;
      t.bytes_per_second[{a, b}] = rate * static_cast<double>(kUnit);
    }
  }
  t.host_cores = dice.upto(1) == 0 ? HostCores::are_device : HostCores::beside_device;
  return t;
}

/// Some 16 to `most` placements.
Instance random_instance(unsigned seed, double most) {
  Dice dice(seed);
  for (;;) {
    Instance one;
    const int blocks = dice.between(2, 4), micro_batches = dice.between(1, 2);
    const bool files = dice.upto(1) == 1;
    double options = 2;  // of a block; where it is updated is one
    for (bool& kind : one.present) {
      kind = dice.upto(2) > 0;
      options *= kind ? (files ? 3 : 2) : 1;
    }
    if (std::pow(options, blocks) > most || options < 4) {
      continue;
    }
    constexpr UpdateMode kModes[] = {
        UpdateMode::after_norm, UpdateMode::immediate, UpdateMode::speculative};
    const StepShape shape{.blocks = blocks, .micro_batches = micro_batches};
    one.step = make_step(shape,
                         dice.upto(1) == 0 ? Order::layer_major : Order::micro_batch_major,
                         kModes[dice.upto(2)]);
    one.evaluation = make_evaluation(shape);
    one.sizes = random_sizes(dice, blocks, micro_batches, one.present);
    one.timing = random_timing(dice);
    std::int64_t all = 0;
    for (const auto& [key, size] : one.sizes) {
      all += size;
    }
    const auto part = [&](int least, int parts) { return all / 100 * dice.between(least, parts); };
    one.budgets = {{kDevice, part(10, 80)}, {kHost, part(10, files ? 60 : 120)}};
    if (files) {
      one.budgets[kNvme] = part(20, 150);
    }
    return one;
  }
}

/// The fastest of all placements, by the same judge; infinite: none fits.
double optimum(const Instance& one, Effort effort) {
  PlacementJudge judge(one.task(), effort);
  std::vector<Tier> all;
  for (const auto& [tier, bytes] : one.budgets) {
    all.push_back(tier);
  }
  std::vector<Tiers> options{Tiers{}};
  const auto vary = [&](Tier Tiers::*part, const std::vector<Tier>& over) {
    std::vector<Tiers> more;
    for (const Tiers& tiers : options) {
      for (const Tier tier : over) {
        more.push_back(tiers);
        more.back().*part = tier;
      }
    }
    options = more;
  };
  for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
    if (one.present[kind]) {
      vary(kPackKinds[kind], all);
    }
  }
  vary(&Tiers::update, {kDevice, kHost});
  TiersByBlock tiers(static_cast<std::size_t>(judge.blocks()), options.front());
  std::vector<std::size_t> at(tiers.size(), 0);
  for (;;) {
    for (std::size_t b = 0; b < at.size(); ++b) {
      tiers[b] = options[at[b]];
    }
    judge(tiers);
    std::size_t digit = 0;
    while (digit < at.size() && ++at[digit] == options.size()) {
      at[digit++] = 0;
    }
    if (digit == at.size()) {
      return judge.best_seconds();
    }
  }
}

/// A4: of random small instances, with everything tried as the measure.
void check_against_optimum(unsigned first, unsigned count, double most) {
  int within = 0, feasible = 0;
  double worst = 1;
  for (unsigned seed = first; seed < first + count; ++seed) {
    const Instance one = random_instance(seed, most);
    const double best = optimum(one, Effort::quick);
    std::optional<FoundPlacement> found;
    try {
      found = search_placement(one.task());
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), Errc::infeasible);
      EXPECT_NE(std::string(error.what()).find("plan: "), std::string::npos);
    }
    ASSERT_EQ(found.has_value(), std::isfinite(best)) << "seed " << seed;
    if (!found) {
      continue;
    }
    ++feasible;
    const double ratio = found->seconds / best;
    EXPECT_GE(ratio, 1 - 1e-9);
    EXPECT_LE(ratio, 1.15) << "seed " << seed;
    EXPECT_LE(found->seconds, found->lowest_seconds);
    within += ratio <= 1.05 ? 1 : 0;
    worst = std::max(worst, ratio);
    const Program written = with_transfers(
        one.step, found->placement, one.sizes, one.timing, one.budgets, Effort::quick);
    EXPECT_EQ(simulate(written, one.sizes, one.timing).seconds, found->seconds);
    const auto wrong = validate_alone(written, Budget{&one.sizes, one.budgets});
    EXPECT_FALSE(wrong) << to_string(*wrong);
  }
  EXPECT_GE(within, 0.95 * feasible);
  EXPECT_GE(feasible, count / 2);
  std::printf("%d of %u feasible, %d within 1.05 of the optimum, the worst %.4f\n",
              feasible,
              count,
              within,
              worst);
}

TEST(PlacementSearch, A4IsCloseToTheBestOfAll) {
  check_against_optimum(1, 40, 700);
}

TEST(PlacementSearch, A4IsCloseToTheBestOfAllSlow) {
  check_against_optimum(1001, 200, 7000);
}

}  // namespace
}  // namespace strata::offload
