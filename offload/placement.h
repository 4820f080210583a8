#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offload/transfers.h"

namespace strata::offload {

/// Where each kind of bytes is while nothing computes with it, the same for all blocks.
struct Tiers {
  Tier weights = {}, state = {}, grads = {};
  Tier activations = {};  // boundaries and what forward saves
  int eighths = 8;        // of the tokens, whole micro-batches evenly spread, whose activations
                          // wait there; those of the others are in the device
  Tier update = {};       // where updates run
  friend bool operator==(const Tiers&, const Tiers&) = default;
};
/// Whether updates may run in it: not in files, and not in far memory, which is slow for all that
/// does more with a byte than copy it.
bool runs_updates(Tier tier);
/// "weights=nvme,state=nvme,grads=host,activations=device,update=host"; with less than all tokens
/// "activations=host*5/8".
std::string to_string(const Tiers& tiers);
/// Of such a text, in any order; what it does not name is in the device. Absent: it is none.
std::optional<Tiers> tiers_from(std::string_view text);

/// The same where blocks differ: "weights=0-5:nvme,6-7:device; state=nvme; ...".
std::string to_string(std::span<const Tiers> by_block);
/// Of such a text or the one above; a block that a kind does not name has it in the device. Absent:
/// it is neither, or names a block that there is not.
std::optional<std::vector<Tiers>> tiers_by_block_from(std::string_view text, int blocks);

/// Of the packs that have sizes.
Placement placement_of(const Tiers& tiers, const PackSizes& sizes);
/// With tiers of its own for each block.
Placement placement_of(std::span<const Tiers> by_block, const PackSizes& sizes);

}  // namespace strata::offload
