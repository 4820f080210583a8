#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/assemble.h"

namespace strata::launch {

inline constexpr Tier kDevice{TierKind::device, 0}, kPinned{TierKind::pinned, 0},
    kHost{TierKind::host, 0}, kFar{TierKind::far, 0}, kNvme{TierKind::nvme, 0};

/// Two paths in one directory, with room for everything; memory as little as it takes.
inline Offloading offloading(const std::string& tiers, const std::filesystem::path& directory) {
  Offloading o;
  o.tiers = offload::tiers_from(tiers).value();
  o.budgets = {{kNvme, 1 << 30}};
  for (const Tier memory : {kDevice, kPinned, kHost, kFar}) {
    o.budgets[memory] = offload::kLeast;
  }
  for (const char* name : {"a", "b"}) {
    std::filesystem::create_directories(directory / name);
    o.nvme.paths.push_back({.directory = directory / name,
                            .budget_bytes = 1 << 29,
                            .read_rate = 1e9,
                            .write_rate = 1e9});
  }
  o.nvme.verify = offload::Verify::all;
  o.nvme.warn = o.memory.warn = [](std::string_view) {};
  o.rates.gemm_f32 = o.rates.gemm_bf16 = 1e11;
  o.rates.copy = 1e10;
  o.rates.update = 1e8;
  o.rates.codecs = {.fp8 = 1e9, .int8 = 1e9, .int4 = 1e8};
  return o;
}

inline constexpr const char* kAllInNvme =
    "weights=nvme,state=nvme,grads=nvme,activations=nvme,update=host";

/// How many transfers of a program end in its next run.
inline int running_on(const Program& program) {
  int count = 0;
  for (std::size_t k = 0; k < program.step.size(); ++k) {
    count += runs_on(program.step[k], static_cast<int>(k)) ? 1 : 0;
  }
  return count;
}

/// A mode, and how many blocks speculate where that is said.
struct Update {
  UpdateMode mode = UpdateMode::after_norm;
  std::optional<int> speculated = {};
  std::string name() const {
    return "mode " + std::to_string(static_cast<int>(mode)) +
           (speculated ? ", " + std::to_string(*speculated) + " speculate" : "");
  }
  Computation of(Computation c) const {
    c.update = mode;
    c.speculated = speculated;
    return c;
  }
};

/// Those of one set of bits, for a model of so many blocks.
inline std::vector<Update> exact_updates(int blocks) {
  std::vector<Update> all{
      {UpdateMode::after_norm}, {UpdateMode::speculative}, {UpdateMode::lazy_forward}};
  for (int speculated = 1; speculated < blocks; ++speculated) {
    if (speculated <= 2 || speculated == blocks - 1) {
      all.push_back({UpdateMode::hybrid, speculated});
    }
  }
  return all;
}

/// What a plan reserves, and nothing more.
inline offload::Budgets just_enough(const Blueprint& blueprint) {
  offload::Budgets budgets;
  for (const auto& [tier, planned] : blueprint.plan().tiers) {
    budgets[tier] = planned.arena_bytes;
  }
  return budgets;
}

}  // namespace strata::launch
