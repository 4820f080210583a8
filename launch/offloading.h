#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/sharding.h"
#include "offload/memory_arenas.h"
#include "offload/nvme_store.h"
#include "offload/placement.h"
#include "offload/profile.h"
#include "offload/written_bytes.h"

namespace strata::launch {

/// Where the bytes of a computation are while nothing computes with them, and what moving and
/// computing take there.
struct Offloading {
  offload::Tiers tiers;
  /// Where blocks differ, instead of `tiers`; else empty. `search`: it is found when it is planned.
  std::vector<offload::Tiers> by_block = {};
  bool search = false;
  offload::Budgets budgets;                         // offload::kLeast: as little as it takes
  offload::NvmeConfig nvme;                         // of the budget's paths
  std::int64_t most_written = offload::kAnyWrites;  // to files, by a step
  offload::MemoryConfig memory = {};
  bool far_is_elsewhere = false;  // far memory has a node of its own
  offload::HardwareProfile rates;
  bool measured = false;  // `rates`; else they are assumed
};

/// Of all blocks, or by block.
std::string placement_text(const Offloading& offloading);

/// What the settings name besides the device: absent when that is nothing. Budgets are shared by
/// the ranks of a machine. `device_bytes`: of the device, or kLeast. Throws config for paths that
/// are no directories, texts that are no sizes and placements in tiers without a budget.
std::optional<Offloading> offloading_of(const MemorySettings& memory,
                                        const IoSettings& io,
                                        std::int64_t device_bytes,
                                        int blocks,
                                        RankPlace place);

/// The device alone, at the machine's rates.
Offloading device_alone();
/// The rates that `bench hardware` kept for this machine; absent: none are kept.
std::optional<offload::HardwareProfile> kept_rates();

}  // namespace strata::launch
