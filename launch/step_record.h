#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "launch/assemble.h"
#include "offload/tiered_store.h"

namespace strata::launch {

/// The steps of a run beside their plan, where bytes were offloaded.
struct StepOutcome {
  struct Bytes {
    std::int64_t planned = 0, used = 0;
  };
  double predicted_seconds = 0, median_seconds = 0;
  std::map<Tier, Bytes> peaks;    // of every tier, by the ledger
  Bytes nvme_read, nvme_written;  // of a step; used: the mean over steps. The first step, and those
                                  // after an evaluation or a snapshot, read what runs on twice.
  std::map<PackClass, offload::Waits> waits;  // of a step: the mean of seconds; count: of all
};
/// Lines about it, to stderr.
void print_outcome(const StepOutcome& outcome);
nlohmann::json outcome_json(const StepOutcome& outcome);

/// Watches the steps of an engine, which outlives it.
class StepRecord {
 public:
  explicit StepRecord(const Engine& engine);
  void begin();
  void end(double seconds);
  /// Absent: nothing is offloaded, or no step was made.
  std::optional<StepOutcome> outcome() const;

 private:
  /// So far: of the files, and what was waited for.
  struct Totals {
    offload::TieredStore::FileBytes files;
    std::map<PackClass, offload::Waits> waits;
  };
  Totals totals() const;

  const Engine& engine_;
  const bool offloads_;
  Totals before_, sum_;
  std::vector<double> seconds_;
};

}  // namespace strata::launch
