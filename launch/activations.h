#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/block.h"
#include "launch/assemble.h"
#include "launch/config.h"
#include "launch/placings.h"

namespace strata::launch {

// What a choice for decoder blocks means for all blocks. Embedding and head keep all: the first
// saves nothing, the second's activations are read as soon as they are made.
std::vector<BlockProgram::Keep> kept_by_block(const offload::RecomputeChoice& choice);
std::vector<int> recomputed_blocks(const offload::RecomputeChoice& choice);

/// A computation on paper, with recompute chosen and the budgets it is to fit.
struct Planned {
  std::unique_ptr<Blueprint> blueprint;
  offload::Budgets budgets;
  std::string why;             // this recompute, or this placing
  std::string speculated_why;  // as many blocks speculate, where updates are hybrid
  bool fits() const { return !misfit(blueprint->plan(), budgets); }
};

/// Plans with the recompute that the settings name. For auto: with the least extra work that fits
/// the device's budget, or the least memory where that is asked for or nothing fits. The
/// computation's own choice is not looked at. Throws config when the settings name a block that is
/// not there.
Planned plan_activations(Computation computation, const MemorySettings& memory);

/// The same with the other tiers that the settings name: where everything fits the device, it stays
/// there; else the placement that is fastest on virtual time among those that fit, unless the
/// settings say which. Where updates are hybrid and nothing says how many blocks speculate, as many
/// do as there is room for beside that, see launch/speculation.h.
/// Throws Infeasible, naming the nearest, when none of several fits.
Planned plan_memory(Computation computation, const MemorySettings& memory, const IoSettings& io);

/// Every placing that plan_memory may choose from, all in the device first among them, with every
/// recompute: also where it need not look further. `chosen`: what it chose; null: nothing fits. As
/// many blocks speculate as in that.
std::vector<Placing> compare_placings(Computation computation,
                                      const MemorySettings& memory,
                                      const IoSettings& io,
                                      const Blueprint* chosen);

/// How decoder blocks keep what they keep: "activations fp8 (lossy)" behind `before`; nothing where
/// it is exact. As JSON with the bytes that a block keeps.
std::string codec_text(const Blueprint& blueprint, std::string_view before);
nlohmann::json codec_json(const Blueprint& blueprint);

}  // namespace strata::launch
