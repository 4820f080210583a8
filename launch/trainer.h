#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "launch/job.h"
#include "launch/model_bytes.h"
#include "launch/plan_report.h"
#include "launch/run_dir.h"
#include "launch/step_record.h"

namespace strata::launch {

/// How a run ended.
struct TrainResult {
  std::int64_t step = 0;
  std::int64_t steps_done = 0;  // by this start; a resumed run may have been through
  double loss = 0;
  std::optional<double> validation_loss;
  std::int64_t planned_bytes = 0, ledger_peak_bytes = 0, resident_peak_bytes = 0;
  std::vector<LabelPeaks> different_peaks;
  std::optional<StepOutcome> offloaded;
  std::vector<ModelBytes> model_bytes;  // by rank
  std::filesystem::path checkpoint;
  bool interrupted = false;
};

/// Runs a job to its end, or to a wish to stop: steps, validation, checkpoints, report.
/// `checkpoint`: where to go on from; empty: from the start. `dir`: on rank 0 alone; it is created
/// once everything is allocated and loaded. Collective. Throws numerics when on_nonfinite says stop
/// or a run of skipped steps shows that it cannot recover; the state before that step is then
/// saved.
TrainResult run_training(Job job,
                         Communicator& ranks,
                         RunDir* dir,
                         const std::filesystem::path& checkpoint);

}  // namespace strata::launch
