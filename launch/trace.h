#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/program.h"
#include "core/span_log.h"
#include "launch/config.h"
#include "launch/report.h"

namespace strata::launch {

struct TraceConfig {
  std::filesystem::path file;
  StepRange steps;
  std::size_t spans = 0;  // kept at most, of all steps together
};

/// Spans to keep for these steps of a program: all that they leave, up to what a viewer still
/// opens.
std::size_t trace_spans(const StepRange& steps, const Program& program);

/// What chosen steps of a run did and when, as a file of Chrome's trace events, which
/// ui.perfetto.dev opens. The file is written after the last of the steps, or when this ends if
/// they were entered. A trace is no result: where it cannot be written a warning says so and the
/// run goes on. Not thread-safe.
class Trace {
 public:
  Trace(TraceConfig config, const Ledger& ledger, Report& report)
      : config_(std::move(config)), ledger_(ledger), report_(report) {}
  ~Trace() { write(); }
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  /// Before each step: where it leaves its spans; null for a step that is not chosen.
  SpanLog* begin(std::int64_t step);
  /// After each step.
  void end();

 private:
  /// One border of a step: the time, and the bytes that lie on the device by label.
  struct Border {
    std::int64_t ns = 0;
    std::map<std::string, Ledger::Bytes, std::less<>> labels;
  };
  struct TracedStep {
    std::int64_t step = 0;
    Border begin, end;
  };
  Border border() const;
  std::string json() const;
  void write() noexcept;

  TraceConfig config_;
  const Ledger& ledger_;
  Report& report_;
  std::optional<SpanLog> log_;  // from the first chosen step until the file is written
  std::vector<TracedStep> steps_;
  bool in_step_ = false;
};

}  // namespace strata::launch
