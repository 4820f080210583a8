#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "launch/assemble.h"

namespace strata::launch {

inline constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0},
    kNvme{TierKind::nvme, 0};

/// Two paths in one directory, with room for everything; memory as little as it takes.
inline Offloading offloading(const std::string& tiers, const std::filesystem::path& directory) {
  Offloading o;
  o.tiers = offload::tiers_from(tiers).value();
  o.budgets = {{kDevice, offload::kLeast}, {kHost, offload::kLeast}, {kNvme, 1 << 30}};
  for (const char* name : {"a", "b"}) {
    std::filesystem::create_directories(directory / name);
    o.nvme.paths.push_back({.directory = directory / name,
                            .budget_bytes = 1 << 29,
                            .read_rate = 1e9,
                            .write_rate = 1e9});
  }
  o.nvme.verify = offload::Verify::all;
  o.nvme.warn = [](std::string_view) {};
  o.rates.gemm_f32 = o.rates.gemm_bf16 = 1e11;
  o.rates.copy = 1e10;
  o.rates.update = 1e8;
  o.rates.codecs = {.fp8 = 1e9, .int8 = 1e9, .int4 = 1e8};
  return o;
}

inline constexpr const char* kAllInNvme =
    "weights=nvme,state=nvme,grads=nvme,activations=nvme,update=host";

/// What a plan reserves, and nothing more.
inline offload::Budgets just_enough(const Blueprint& blueprint) {
  offload::Budgets budgets;
  for (const auto& [tier, planned] : blueprint.plan().tiers) {
    budgets[tier] = planned.arena_bytes;
  }
  return budgets;
}

}  // namespace strata::launch
