#include "launch/step_record.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/forecast.h"

namespace strata::launch {
namespace {

using offload::bytes_text;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

nlohmann::json bytes_json(const StepOutcome::Bytes& bytes) {
  return {{"planned_bytes", bytes.planned}, {"used_bytes", bytes.used}};
}

}  // namespace

StepRecord::StepRecord(const Engine& engine)
    : engine_(engine), offloads_(engine.blueprint().computation().offloading != nullptr) {}

StepRecord::Totals StepRecord::totals() const {
  return {.files = engine_.store().file_bytes(), .waits = engine_.store().waits()};
}

void StepRecord::begin() {
  if (offloads_) {
    before_ = totals();
  }
}

void StepRecord::end(double seconds) {
  if (!offloads_) {
    return;
  }
  const Totals now = totals();
  sum_.files.read += now.files.read - before_.files.read;
  sum_.files.written += now.files.written - before_.files.written;
  for (const auto& [cls, waits] : now.waits) {
    sum_.waits[cls].count += waits.count - before_.waits[cls].count;
    sum_.waits[cls].seconds += waits.seconds - before_.waits[cls].seconds;
  }
  seconds_.push_back(seconds);
}

std::optional<StepOutcome> StepRecord::outcome() const {
  if (seconds_.empty()) {
    return std::nullopt;
  }
  const Blueprint& blueprint = engine_.blueprint();
  const Forecast planned = forecast(blueprint);
  const auto steps = static_cast<std::int64_t>(seconds_.size());
  StepOutcome o{.predicted_seconds = planned.step.seconds,
                .median_seconds = median(seconds_),
                .peaks = {},
                .nvme_read = {planned.nvme_read_bytes, sum_.files.read / steps},
                .nvme_written = {planned.nvme_written_bytes, sum_.files.written / steps},
                .waits = sum_.waits};
  for (auto& [cls, waits] : o.waits) {
    waits.seconds /= static_cast<double>(steps);
  }
  for (const auto& [tier, plan] : blueprint.plan().tiers) {
    o.peaks[tier] = {plan.peak_bytes, engine_.ledger().peak(tier)};
  }
  return o;
}

void print_outcome(const StepOutcome& o) {
  std::fprintf(stderr,
               "step: predicted %s, median %s (%.2f x)\n",
               seconds_text(o.predicted_seconds).c_str(),
               seconds_text(o.median_seconds).c_str(),
               o.median_seconds / o.predicted_seconds);
  std::string waits;
  for (const auto& [cls, w] : o.waits) {
    if (w.count > 0) {
      waits += fmt::format(
          "{}{} for {}", waits.empty() ? "" : ", ", seconds_text(w.seconds), to_string(cls));
    }
  }
  std::fprintf(stderr, "waited in a step: %s\n", waits.empty() ? "for nothing" : waits.c_str());
  for (const auto& [tier, bytes] : o.peaks) {
    if (tier == Tier()) {
      continue;  // told with and without offloading
    }
    std::fprintf(stderr,
                 "%s: planned %s, used %s\n",
                 to_string(tier).c_str(),
                 bytes_text(bytes.planned).c_str(),
                 bytes_text(bytes.used).c_str());
  }
  if (o.nvme_read.planned + o.nvme_written.planned > 0) {
    std::fprintf(stderr,
                 "nvme in a step: read %s (planned %s), written %s (planned %s)\n",
                 bytes_text(o.nvme_read.used).c_str(),
                 bytes_text(o.nvme_read.planned).c_str(),
                 bytes_text(o.nvme_written.used).c_str(),
                 bytes_text(o.nvme_written.planned).c_str());
  }
}

nlohmann::json outcome_json(const StepOutcome& o) {
  nlohmann::json tiers = nlohmann::json::object(), waits = nlohmann::json::object();
  for (const auto& [tier, bytes] : o.peaks) {
    tiers[to_string(tier)] = bytes_json(bytes);
  }
  for (const auto& [cls, w] : o.waits) {
    waits[std::string(to_string(cls))] = w.seconds;
  }
  return {{"predicted_seconds", o.predicted_seconds},
          {"median_seconds", o.median_seconds},
          {"tiers", tiers},
          {"nvme_read_per_step", bytes_json(o.nvme_read)},
          {"nvme_written_per_step", bytes_json(o.nvme_written)},
          {"waited_seconds_per_step", waits}};
}

}  // namespace strata::launch
