#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

namespace strata::launch {

/// What one training step tells.
struct StepReport {
  std::int64_t step = 0, steps = 0;  // from 1
  double loss = 0, grad_norm = 0, lr = 0;
  bool clipped = false, skipped = false;
  std::int64_t tokens = 0;       // of this step
  std::int64_t tokens_seen = 0;  // of the run
  double seconds = 0;
  std::int64_t memory_bytes = 0;
};

/// One line a step for people (stderr) and one JSON object a step for programs (metrics.jsonl). On
/// a terminal the line is live and a bar shows progress; elsewhere lines stay, at most one a second
/// after the first ten.
class Report {
 public:
  /// Appends to <run>/metrics.jsonl, cutting lines of steps after `resumed_step` that the resumed
  /// run repeats.
  Report(const std::filesystem::path& run_dir, std::int64_t resumed_step);
  /// Tells nothing: of a rank that another one speaks for.
  Report();
  ~Report();
  void step(const StepReport& report);
  void evaluation(std::int64_t step, double loss, std::int64_t tokens, double seconds);
  /// A line of its own, whatever the terminal shows.
  void note(const std::string& text);

 private:
  void finish_live_line();
  void write_metrics(const std::string& line);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> metrics_;  // absent: silent
  bool terminal_;
  bool live_ = false;
  bool metrics_lost_ = false;
  std::chrono::steady_clock::time_point last_line_;
  double seconds_per_step_ = 0;  // smoothed, for the time left
};

/// Resident set of this process, from /proc: bytes now and at most.
struct ResidentSet {
  std::int64_t now_bytes = 0, peak_bytes = 0;
};
ResidentSet resident_set();

/// "1h 02m", "3.4 s".
std::string duration_text(double seconds);

}  // namespace strata::launch
