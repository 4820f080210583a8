#pragma once
#include <map>
#include <span>
#include <vector>

#include "core/program.h"
#include "offload/planner.h"
#include "offload/simulator.h"

namespace strata::offload {

/// Where packs are while nothing uses them, and where blocks are updated. What it does not name is
/// in the device.
struct Placement {
  std::map<PackKey, Tier> homes;     // of what lasts from step to step: weights, state
  std::map<PackKey, Tier> waits_in;  // of what comes and goes: gradients, boundaries, activations
  std::map<int, Tier> update_in;     // by block; its weights and state are loaded and saved there
  friend bool operator==(const Placement&, const Placement&) = default;
};

/// How many ways to arrange the transfers of a program are tried.
enum class Effort : std::uint8_t {
  full,
  quick,  // one: to compare placements
};
struct Drafting {
  Effort effort = Effort::full;
  Budgets kept_free = {};  // of the budgets: leads and tails of transfers leave it alone
  bool apart = false;      // no transfer runs on into the next step
};

/// The program with the transfers that a placement needs. Each is started as early as the budgets
/// allow and virtual time asks for, and waited for as late as its bytes or its room are needed:
/// which transfers there are, and in which order, follows from this alone. Budgets are of the bytes
/// alive at a time. Throws infeasible, naming tier, instruction and missing bytes, when they do not
/// hold even what instructions need while they run.
Program with_transfers(const Program& program,
                       const Placement& placement,
                       const PackSizes& sizes,
                       const Timing& timing,
                       const Budgets& budgets,
                       const Drafting& drafting = {});

/// Bytes of each tier of memory without which the program cannot run.
std::map<Tier, std::int64_t> least_bytes(const Program& program,
                                         const Placement& placement,
                                         const PackSizes& sizes);

/// Gives programs that share what lasts their transfers, and everything a place: the arenas are
/// within the budgets too. A tier whose budget is kLeast gets what it takes to run at all. Throws
/// infeasible, naming what is missing.
inline constexpr std::int64_t kLeast = -1;
Plan place(std::span<Program* const> programs,
           const Placement& placement,
           const PackSizes& sizes,
           const Timing& timing,
           const Budgets& budgets);

}  // namespace strata::offload
