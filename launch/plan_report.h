#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "launch/activations.h"
#include "launch/job.h"

namespace strata::launch {

/// Lines about model, step, data and memory, to stderr, before a run begins.
void print_summary(const Job& job, const Blueprint& blueprint);

/// "model: 124439808 parameters; step: ...".
std::string model_line(const Job& job);
/// Bytes by label and phase, to stdout.
void print_plan(const Planned& planned);

/// One way to come by the activations of backward, and what it comes to for a job.
struct RecomputeOption {
  std::string name;  // as memory.recompute takes it
  std::int64_t peak_bytes = 0, reserved_bytes = 0;
  std::int64_t saved_bytes = 0;  // at the peak, against none
  double extra_flops = 0;        // of a step
  double extra_percent = 0;      // of a step's
  bool fits = false, in_use = false;
};
/// Each kind for all blocks, and what is in use if that is another.
std::vector<RecomputeOption> recompute_options(const Job& job, const Planned& planned);
void print_explanation(const std::vector<RecomputeOption>& options, const Planned& planned);

nlohmann::json plan_json(const Job& job,
                         const Planned& planned,
                         const std::vector<RecomputeOption>& options);

/// Peaks of a label, planned and as they came.
struct LabelPeaks {
  std::string label;
  std::int64_t planned_bytes = 0, used_bytes = 0;
};
/// The labels whose peaks differ.
std::vector<LabelPeaks> different_peaks(const offload::TierPlan& planned, const Ledger& ledger);

}  // namespace strata::launch
