// Small programs against every program that could have been written instead.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/philox.h"
#include "core/schedule.h"
#include "offload/stays.h"
#include "offload/transfers.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};
constexpr int kBlocks = 3;

/// Forward passes of three blocks, each for two micro-batches; weights at home in host.
struct Instance {
  Program base;
  PackSizes sizes;
  Placement placement;
  Timing timing;
  Budgets budgets;
};

Instance draw(std::uint64_t seed) {
  const RandomKey key{seed, RandomUse::sampling, 0, 0};
  std::uint64_t drawn = 0;
  const auto below = [&](int count) {
    return static_cast<int>(key.words(drawn++)[0] % static_cast<std::uint32_t>(count));
  };
  Instance made;
  made.base = make_evaluation({.blocks = kBlocks, .micro_batches = 2});
  made.sizes[{PackClass::workspace}] = made.sizes[{PackClass::workspace, kBlocks - 1}] = 4096;
  std::int64_t weights = 0, largest = 0;
  for (int b = 0; b < kBlocks; ++b) {
    const std::int64_t size = 4096 * (1 + below(8));
    made.sizes[{PackClass::weights, b}] = size;
    made.placement.homes[{PackClass::weights, b}] = kHost;
    made.sizes[{PackClass::state, b}] = 4096;
    weights += size;
    largest = std::max(largest, size);
    for (const int mb : {0, 1}) {
      made.sizes[{PackClass::boundary, b, mb}] = made.sizes[{PackClass::saved, b, mb}] = 4096;
    }
  }
  std::vector<double> seconds;
  for (int b = 0; b < kBlocks; ++b) {
    seconds.push_back(1 + below(8));
  }
  made.timing.compute_seconds = [seconds](const Instruction& i) {
    return i.op == Op::forward ? seconds[static_cast<std::size_t>(i.block)] : 0;
  };
  made.timing.bytes_per_second[{kHost, kDevice}] = 4096.0 * (1 + below(3));
  made.budgets = {{kDevice, largest + 4096 * (4 + below(static_cast<int>(weights / 4096) + 4))},
                  {kHost, 1 << 20}};
  return made;
}

/// A stretch in the device, and where its fetch starts.
struct Visit {
  int block = 0;
  int first = 0, last = 0;
  int earliest = 0, start = 0;
};

class Exhaustive {
 public:
  explicit Exhaustive(const Instance& instance)
      : instance_(instance), table_(instance.base, instance.placement) {}

  /// The least time of all programs that fit; absent: none does.
  std::optional<double> best() {
    for (unsigned kept = 0; kept < 1u << kBlocks; ++kept) {  // between its two uses, by block
      visits_.clear();
      for (const auto& [key, stays] : table_.stays()) {
        add_visits(key.block, stays, (kept >> key.block & 1) != 0);
      }
      choose_start(0);
    }
    return best_;
  }

 private:
  void add_visits(int block, const std::vector<Stay>& stays, bool kept) {
    int earliest = 0;
    for (const Stay& stay : stays) {
      if (kept && earliest > 0) {
        visits_.back().last = stay.last;
      } else {
        visits_.push_back({block, stay.first, stay.last, earliest, 0});
      }
      earliest = stay.last + 1;
    }
  }
  void choose_start(std::size_t at) {
    if (at == visits_.size()) {
      return consider(written());
    }
    for (int start = visits_[at].earliest; start <= visits_[at].first; ++start) {
      visits_[at].start = start;
      choose_start(at + 1);
    }
  }
  Program written() const {
    Program program = table_.framed();
    const std::vector<Instruction> framed = std::exchange(program.step, {});
    std::vector<Visit> coming = visits_;
    std::ranges::stable_sort(coming, {}, &Visit::first);
    std::vector<std::pair<std::size_t, int>> due;
    std::vector<int> index;
    for (int k = 0; k < static_cast<int>(framed.size()); ++k) {
      for (const Visit& v : visits_) {
        if (v.last + 1 == k) {
          program.step.push_back(
              {.op = Op::evict, .block = v.block, .tier = kHost, .source = kDevice, .clean = true});
        }
      }
      for (const Visit& v : coming) {
        if (v.start == k) {
          due.emplace_back(program.step.size(), v.first);
          program.step.push_back(
              {.op = Op::fetch, .block = v.block, .tier = kDevice, .source = kHost});
        }
      }
      index.push_back(static_cast<int>(program.step.size()));
      program.step.push_back(framed[static_cast<std::size_t>(k)]);
    }
    for (const auto& [move, first] : due) {
      program.step[move].needed_by = index[static_cast<std::size_t>(first)];
    }
    return program;
  }
  void consider(const Program& program) {
    const double seconds = simulate(program, instance_.sizes, instance_.timing).seconds;
    if ((!best_ || seconds < *best_) &&
        !validate_alone(program, Budget{&instance_.sizes, instance_.budgets})) {
      best_ = seconds;
    }
  }

  const Instance& instance_;
  StayTable table_;
  std::vector<Visit> visits_;
  std::optional<double> best_;
};

std::optional<double> planned(const Instance& i) {
  try {
    const Program p = with_transfers(i.base, i.placement, i.sizes, i.timing, i.budgets);
    EXPECT_FALSE(validate_alone(p, Budget{&i.sizes, i.budgets})) << p;
    return simulate(p, i.sizes, i.timing).seconds;
  } catch (const Infeasible&) {
    return std::nullopt;
  }
}

TEST(Optimum, A4PlansAreNearTheBestOfAll) {
  constexpr int kInstances = 200;
  int near = 0, infeasible = 0;
  for (int seed = 0; seed < kInstances; ++seed) {
    const Instance instance = draw(static_cast<std::uint64_t>(seed));
    const std::optional<double> best = Exhaustive(instance).best(), found = planned(instance);
    ASSERT_EQ(best.has_value(), found.has_value()) << "seed " << seed;
    if (!best) {
      ++infeasible;
      continue;
    }
    EXPECT_GE(*found, *best * (1 - 1e-9)) << "seed " << seed;
    EXPECT_LE(*found, *best * 1.15) << "seed " << seed;
    near += *found <= *best * 1.05 ? 1 : 0;
  }
  EXPECT_GE(near, (kInstances - infeasible) * 95 / 100);
  EXPECT_GT(infeasible, 0);
  EXPECT_LT(infeasible, kInstances / 2);
}

}  // namespace
}  // namespace strata::offload
