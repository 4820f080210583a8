#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "launch/activations.h"
#include "launch/job.h"

namespace strata::launch {

/// The same step placed or summed otherwise by one setting, and what that comes to.
struct PlacementOption {
  std::string setting;  // "train.order=layer-major"
  std::int64_t peak_bytes = 0, reserved_bytes = 0;
  std::int64_t saved_bytes = 0;  // at the peak, against the plan; negative: it takes more
  std::string cost;
};
std::vector<PlacementOption> placement_options(const Planned& planned);
void print_placements(const std::vector<PlacementOption>& options);

/// One rank's part of a job of several.
struct RankPeak {
  int rank = 0;
  std::int64_t peak_bytes = 0, reserved_bytes = 0, state_bytes = 0;
  int micro_batches = 0;
};
std::vector<RankPeak> rank_peaks(const Planned& planned);
void print_ranks(const std::vector<RankPeak>& ranks);

nlohmann::json placements_json(const std::vector<PlacementOption>& options);
nlohmann::json ranks_json(const std::vector<RankPeak>& ranks);

}  // namespace strata::launch
