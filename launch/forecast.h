#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "launch/assemble.h"

namespace strata::launch {

/// What one step of a blueprint comes to at the machine's rates, measured or assumed.
struct Forecast {
  offload::Simulation step;
  bool measured = false;
  double tokens_per_second = 0;  // of all ranks
  std::int64_t nvme_read_bytes = 0, nvme_written_bytes = 0;
  std::int64_t nvme_most_written_bytes = 0;         // of a step that clips and updates again, say
  std::optional<std::int64_t> nvme_written_budget;  // memory.nvme_writes, this rank's part
  /// What a whole day of such steps writes.
  double nvme_written_per_day() const;
};
Forecast forecast(const Blueprint& blueprint);

/// "0.12 s", "3.4 ms".
std::string seconds_text(double seconds);

/// Lines about time, what is busy, what is waited for and what files take, to stdout.
void print_forecast(const Forecast& forecast);
nlohmann::json forecast_json(const Forecast& forecast);

}  // namespace strata::launch
