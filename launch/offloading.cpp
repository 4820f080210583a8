#include "launch/offloading.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/budgets.h"
#include "launch/fields.h"
#include "launch/kept_profile.h"

namespace strata::launch {
namespace {

constexpr Tier kNvme{TierKind::nvme, 0};

/// What plans assume of a machine that was not measured: a desktop of few cores.
offload::HardwareProfile assumed_rates() {
  offload::HardwareProfile p;
  p.machine = "assumed";
  p.gemm_f32 = p.gemm_bf16 = 150e9;
  p.copy = 20e9;
  p.update = 500e6;
  p.codecs = {.fp8 = 1e9, .int8 = 1e9, .int4 = 250e6};
  return p;
}
constexpr double kAssumedFileRate = 1e9;

offload::NvmePath path_of(const std::string& text, int neighbours) {
  const std::size_t colon = text.rfind(':');
  const auto bytes = colon == text.npos ? std::nullopt : parse_bytes(text.substr(colon + 1));
  if (!bytes || *bytes <= 0 || colon == 0) {
    throw Error(
        Errc::config,
        fmt::format("memory.nvme: needs DIRECTORY:BYTES such as /scratch:20GiB, got '{}'", text));
  }
  const std::filesystem::path directory = text.substr(0, colon);
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    throw Error(Errc::config,
                fmt::format("memory.nvme: {} is no directory; make it, or name another",
                            directory.string()));
  }
  return {.directory = std::filesystem::canonical(directory), .budget_bytes = *bytes / neighbours};
}

/// As fast as it was measured, or is let.
void set_rates(offload::NvmePath& path,
               const offload::HardwareProfile& rates,
               const IoSettings& io) {
  path.read_rate = path.write_rate = kAssumedFileRate;
  for (const offload::PathRates& known : rates.paths) {
    if (known.directory == path.directory) {
      path.read_rate = known.read;
      path.write_rate = known.write;
      path.block_bytes = known.block_bytes;
      path.depth = known.depth;
    }
  }
  path.pace_read = io.pace_read;
  path.pace_write = io.pace_write;
  const auto limit = [](double& rate, double pace) {
    rate = pace > 0 ? std::min(rate, pace) : rate;
  };
  limit(path.read_rate, io.pace_read);
  limit(path.write_rate, io.pace_write);
}

void require_budgets(const offload::Tiers& tiers, const offload::Budgets& budgets) {
  for (const Tier tier :
       {tiers.weights, tiers.state, tiers.grads, tiers.activations, tiers.update}) {
    if (tier != Tier() && !budgets.contains(tier)) {
      throw Error(
          Errc::config,
          fmt::format("memory.placement: names {}, of which there is none; give memory.{} a "
                      "size",
                      to_string(tier),
                      to_string(tier)));
    }
  }
}

}  // namespace

std::string placement_text(const Offloading& offloading) {
  return offloading.by_block.empty() ? offload::to_string(offloading.tiers)
                                     : offload::to_string(offloading.by_block);
}

std::optional<offload::HardwareProfile> kept_rates() {
  try {
    return kept_profile(profile_file(), {});
  } catch (const Error&) {
    return std::nullopt;  // nowhere to keep one, or not readable: as if there were none
  }
}

Offloading device_alone() {
  Offloading o;
  const auto kept = kept_rates();
  o.measured = kept.has_value();
  o.rates = kept.value_or(assumed_rates());
  return o;
}

std::optional<Offloading> offloading_of(const MemorySettings& memory,
                                        const IoSettings& io,
                                        std::int64_t device_bytes,
                                        int blocks,
                                        RankPlace place) {
  Offloading o = device_alone();
  const bool far =
      memory.far_node || memory.far.how != MemorySettings::Device::bytes || memory.far.bytes > 0;
  const auto nodes = far ? offload::numa_nodes() : std::vector<offload::NumaNode>();
  o.budgets = memory_budgets(memory, device_bytes, place.on_machine, nodes);
  o.memory.far_node = far ? far_node(memory, nodes) : std::nullopt;
  o.far_is_elsewhere = o.memory.far_node.has_value();
  for (const std::string& text : memory.nvme) {
    o.nvme.paths.push_back(path_of(text, place.on_machine));
    set_rates(o.nvme.paths.back(), o.rates, io);
    o.budgets[kNvme] += o.nvme.paths.back().budget_bytes;
  }
  if (memory.nvme_writes) {
    o.most_written = *memory.nvme_writes / place.on_machine;
  }
  o.nvme.rank = place.rank;
  o.nvme.engine = io.engine;
  o.nvme.verify = io.verify == "all"   ? offload::Verify::all
                  : io.verify == "off" ? offload::Verify::off
                                       : offload::Verify::sample;
  if (!memory.placement.empty()) {
    auto tiers = offload::tiers_by_block_from(memory.placement, blocks);
    if (!tiers) {
      throw Error(
          Errc::config,
          fmt::format("memory.placement: needs auto, or some of weights=, state=, grads=, "
                      "activations= and update= with device, pinned, host, far or nvme (no "
                      "updates in far or nvme), for blocks apart as state=0-2:host,3:nvme, of a "
                      "share of the tokens as activations=host*5/8; with blocks 0 to {}, got '{}'",
                      blocks - 1,
                      memory.placement));
    }
    for (const offload::Tiers& of_block : *tiers) {
      require_budgets(of_block, o.budgets);
    }
    o.tiers = tiers->front();
    if (std::ranges::count(*tiers, o.tiers) != std::ssize(*tiers)) {
      o.by_block = std::move(*tiers);
    }
  }
  return o.budgets.size() > 1 ? std::optional(std::move(o)) : std::nullopt;
}

}  // namespace strata::launch
