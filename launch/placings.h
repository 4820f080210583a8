#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "launch/forecast.h"
#include "offload/placement.h"

namespace strata::launch {

/// Where the bytes of a step may be and what is computed again, as it was tried.
struct Placing {
  offload::Tiers tiers;
  std::string recompute;
  std::optional<offload::Misfit> misfit;  // absent: it fits, and what follows is known
  std::map<Tier, std::int64_t> reserved_bytes;
  double seconds = 0, bound_seconds = 0;  // of a step
  std::string bound_by;
  std::int64_t nvme_written_bytes = 0;  // by a step
  bool chosen = false;
  std::vector<offload::Tiers> by_block = {};  // where blocks differ, instead of `tiers`
};
/// Of a blueprint that fits.
Placing placing_of(const Blueprint& blueprint);
/// "weights=host,state=host"; "device" where all is there.
std::string placing_name(const offload::Tiers& tiers);

/// What fits first, fastest first; then by the bytes that are missing.
void sort_placings(std::vector<Placing>& placings);
/// A line each, to stdout.
void print_comparison(const std::vector<Placing>& placings);
/// The fastest of those that were not chosen, and how much slower they are.
void print_alternatives(const std::vector<Placing>& placings);

/// Why a kind of bytes is not nearer to where the step computes: what comes of it there.
struct Reason {
  std::string kind;  // "state"
  Tier in, instead;
  Placing placing;  // the plan with that changed alone
};
/// Each tried. Empty where nothing is offloaded.
std::vector<Reason> reasons(const Blueprint& blueprint, const offload::Budgets& budgets);
void print_reasons(const std::vector<Reason>& reasons, const Blueprint& blueprint);
nlohmann::json reasons_json(const std::vector<Reason>& reasons);

nlohmann::json placings_json(const std::vector<Placing>& placings);

}  // namespace strata::launch
