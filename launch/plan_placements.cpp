#include "launch/plan_placements.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace strata::launch {
namespace {

using offload::bytes_text;

constexpr Tier kDevice{TierKind::device, 0};

const offload::TierPlan& device_of(const Blueprint& blueprint) {
  return blueprint.plan().tiers.at(kDevice);
}

/// Wherever it is.
std::int64_t state_bytes(const Program& step, const PackSizes& sizes) {
  std::int64_t bytes = 0;
  for (const auto& [key, size] : sizes) {
    const bool turn = key.cls == PackClass::turn_state && has_turn(step, key.block);
    bytes += key.cls == PackClass::state || turn ? size : 0;
  }
  return bytes;
}

std::vector<RankPeak> peaks(Computation c) {
  std::vector<RankPeak> ranks;
  for (c.place.rank = 0; c.place.rank < c.place.world; ++c.place.rank) {
    const Blueprint blueprint(c);
    const offload::TierPlan& device = device_of(blueprint);
    const Program& step = blueprint.step_program();
    ranks.push_back({c.place.rank,
                     device.peak_bytes,
                     device.arena_bytes,
                     state_bytes(step, blueprint.plan().sizes),
                     step.last_micro_batch - step.first_micro_batch});
  }
  return ranks;
}

std::string signed_bytes(std::int64_t bytes) {
  return bytes < 0 ? "-" + bytes_text(-bytes) : bytes_text(bytes);
}

}  // namespace

std::vector<PlacementOption> placement_options(const Planned& planned) {
  const Computation& now = planned.blueprint->computation();
  const std::int64_t peak = device_of(*planned.blueprint).peak_bytes;
  std::vector<PlacementOption> options;
  const auto add = [&](const char* setting, const Computation& other, const char* cost) {
    try {
      const std::vector<RankPeak> ranks = peaks(other);
      const RankPeak most = *std::ranges::max_element(ranks, {}, &RankPeak::reserved_bytes);
      options.push_back(
          {setting, most.peak_bytes, most.reserved_bytes, peak - most.peak_bytes, cost});
    } catch (const offload::Infeasible&) {  // it does not fit where this plan lies
    }
  };
  Computation c = now;
  const bool layers = now.order == Order::layer_major;
  c.order = layers ? Order::micro_batch_major : Order::layer_major;
  add(layers ? "train.order=micro-batch-major" : "train.order=layer-major",
      c,
      layers ? "same bits; each weight is used anew for every micro-batch"
             : "same bits; block inputs of all micro-batches are alive");
  c = now;
  const bool speculative = now.update == UpdateMode::speculative;
  c.update = speculative ? UpdateMode::after_norm : UpdateMode::speculative;
  add(speculative ? "numerics.update=after_norm" : "numerics.update=speculative",
      c,
      speculative ? "same bits; updates wait for the norm"
                  : "same bits; a clipped step updates twice");
  c = now;
  const bool elastic = now.summation == Summation::elastic;
  c.summation = elastic ? Summation::run : Summation::elastic;
  c.order = default_order(c.summation);
  add(elastic ? "numerics.deterministic=run" : "numerics.deterministic=elastic",
      c,
      elastic ? "other bits, and they depend on the number of ranks"
              : "other bits, the same on any number of ranks; one addition more a micro-batch");
  if (now.place.world > 1) {
    c = now;
    c.sharded_update = !now.sharded_update;
    add(now.sharded_update ? "parallel.zero=0" : "parallel.zero=1",
        c,
        now.sharded_update ? "same bits; every rank updates everything"
                           : "same bits; each rank updates its shards");
  }
  return options;
}

void print_placements(const std::vector<PlacementOption>& options) {
  if (options.empty()) {
    return;
  }
  std::printf("  %-32s%12s%12s  %s\n", "instead", "at the peak", "saves", "cost");
  for (const PlacementOption& o : options) {
    std::printf("  %-32s%12s%12s  %s\n",
                o.setting.c_str(),
                bytes_text(o.peak_bytes).c_str(),
                signed_bytes(o.saved_bytes).c_str(),
                o.cost.c_str());
  }
}

std::vector<RankPeak> rank_peaks(const Planned& planned) {
  return peaks(planned.blueprint->computation());
}

void print_ranks(const std::vector<RankPeak>& ranks) {
  std::printf(
      "  %-8s%16s%12s%12s%12s\n", "rank", "micro-batches", "state", "at the peak", "reserved");
  for (const RankPeak& r : ranks) {
    std::printf("  %-8d%16d%12s%12s%12s\n",
                r.rank,
                r.micro_batches,
                bytes_text(r.state_bytes).c_str(),
                bytes_text(r.peak_bytes).c_str(),
                bytes_text(r.reserved_bytes).c_str());
  }
}

nlohmann::json placements_json(const std::vector<PlacementOption>& options) {
  nlohmann::json list = nlohmann::json::array();
  for (const PlacementOption& o : options) {
    list.push_back({{"setting", o.setting},
                    {"peak_bytes", o.peak_bytes},
                    {"reserved_bytes", o.reserved_bytes},
                    {"saved_bytes", o.saved_bytes},
                    {"cost", o.cost}});
  }
  return list;
}

nlohmann::json ranks_json(const std::vector<RankPeak>& ranks) {
  nlohmann::json list = nlohmann::json::array();
  for (const RankPeak& r : ranks) {
    list.push_back({{"rank", r.rank},
                    {"micro_batches", r.micro_batches},
                    {"state_bytes", r.state_bytes},
                    {"peak_bytes", r.peak_bytes},
                    {"reserved_bytes", r.reserved_bytes}});
  }
  return list;
}

}  // namespace strata::launch
