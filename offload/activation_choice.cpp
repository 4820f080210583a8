#include "offload/activation_choice.h"

#include <algorithm>

#include <fmt/format.h>

namespace strata::offload {
namespace {

/// The first `block` blocks are recomputed, the next `elementwise` redo what they can.
RecomputeChoice counts(int blocks, int block, int elementwise) {
  RecomputeChoice choice(static_cast<std::size_t>(blocks), Recompute::none);
  std::fill_n(choice.begin(), block, Recompute::block);
  std::fill_n(choice.begin() + block, elementwise, Recompute::elementwise);
  return choice;
}

/// The least n in [low, high] for which `ok` holds, which it does for `high`.
template <class Ok>
int least(int low, int high, const Ok& ok) {
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (ok(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace

std::string_view to_string(Recompute recompute) {
  constexpr std::string_view kNames[] = {"none", "elementwise", "mlp", "projections", "block"};
  return kNames[static_cast<std::size_t>(recompute)];
}

std::string to_string(std::span<const Recompute> choice) {
  const auto differs = [&](Recompute r) { return r != choice[0]; };
  if (choice.empty() || std::none_of(choice.begin(), choice.end(), differs)) {
    return std::string(to_string(choice.empty() ? Recompute::none : choice[0]));
  }
  std::string text;
  for (std::size_t first = 0, last = 0; first < choice.size(); first = last + 1) {
    for (last = first; last + 1 < choice.size() && choice[last + 1] == choice[first];) {
      ++last;
    }
    if (choice[first] != Recompute::none) {
      text += fmt::format("{}{}{}:{}",
                          text.empty() ? "" : ",",
                          first,
                          last > first ? fmt::format("-{}", last) : "",
                          to_string(choice[first]));
    }
  }
  return text;
}

std::optional<RecomputeChoice> choose_recompute(int blocks,
                                                std::int64_t budget_bytes,
                                                const PlanRecompute& plan) {
  const auto planned = [&](int block, int elementwise) {
    return plan(counts(blocks, block, elementwise));
  };
  const auto fits = [&](int block, int elementwise) {
    return planned(block, elementwise).reserved_bytes <= budget_bytes;
  };
  if (fits(0, 0)) {
    return counts(blocks, 0, 0);
  }
  if (!fits(blocks, 0)) {
    return std::nullopt;
  }
  // One block more that is recomputed may spare several that redo: as long as it could be cheaper,
  // it is tried.
  const int fewest = least(0, blocks, [&](int block) { return fits(block, blocks - block); });
  std::optional<RecomputeChoice> best;
  double best_flops = 0;
  for (int block = fewest; block <= blocks; ++block) {
    if (best && planned(block, 0).extra_flops >= best_flops) {
      break;
    }
    const int elementwise = least(0, blocks - block, [&](int n) { return fits(block, n); });
    const double flops = planned(block, elementwise).extra_flops;
    if (!best || flops < best_flops) {
      best = counts(blocks, block, elementwise);
      best_flops = flops;
    }
  }
  return best;
}

std::optional<RecomputeChoice> choose_recomputed_blocks(int blocks,
                                                        std::int64_t budget_bytes,
                                                        const PlanRecompute& plan) {
  const auto fits = [&](int block) {
    return plan(counts(blocks, block, 0)).reserved_bytes <= budget_bytes;
  };
  if (!fits(blocks)) {
    return std::nullopt;
  }
  return counts(blocks, least(0, blocks, fits), 0);
}

}  // namespace strata::offload
