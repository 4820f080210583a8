// What a step takes, from its program and the rates of the machine.
#include "launch/forecast.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/step_timing.h"

namespace strata::launch {
namespace {

using offload::Cause;
using offload::Link;

constexpr std::size_t kMostCauses = 3;

/// The causes that cost most, first.
std::vector<std::pair<Cause, double>> largest(const std::map<Cause, double>& stalls) {
  std::vector<std::pair<Cause, double>> causes(stalls.begin(), stalls.end());
  std::ranges::stable_sort(causes, std::greater(), &std::pair<Cause, double>::second);
  causes.resize(std::min(causes.size(), kMostCauses));
  return causes;
}

std::string stalls_text(const offload::Simulation& step) {
  std::string text = "stalled " + seconds_text(step.stalled_seconds());
  const auto causes = largest(step.stalls_by_cause);
  for (std::size_t i = 0; i < causes.size(); ++i) {
    const auto& [cause, seconds] = causes[i];
    text += fmt::format("{}{} for {} ({})",
                        i == 0 ? ": " : ", ",
                        seconds_text(seconds),
                        to_string(cause.cls),
                        to_string(cause.link));
  }
  return text;
}

std::string large_bytes_text(double bytes) {
  return bytes < 1e12 ? fmt::format("{:.3g} GB", bytes / 1e9)
                      : fmt::format("{:.3g} TB", bytes / 1e12);
}

}  // namespace

std::string seconds_text(double seconds) {
  return seconds >= 1 || seconds <= 0 ? fmt::format("{:.4g} s", seconds)
         : seconds >= 1e-3            ? fmt::format("{:.3g} ms", seconds * 1e3)
                                      : fmt::format("{:.3g} us", seconds * 1e6);
}

double Forecast::nvme_written_per_day() const {
  constexpr double kDay = 24 * 60 * 60;
  return step.seconds > 0 ? static_cast<double>(nvme_written_bytes) * kDay / step.seconds : 0;
}

Forecast forecast(const Blueprint& blueprint) {
  const Computation& c = blueprint.computation();
  Forecast f;
  if (auto step = blueprint.simulate_step()) {
    f.step = std::move(*step);
    f.measured = c.offloading->measured;
    f.nvme_most_written_bytes =
        offload::written_bytes(blueprint.step_program(), blueprint.plan().sizes);
    if (c.offloading->most_written != offload::kAnyWrites) {
      f.nvme_written_budget = c.offloading->most_written;
    }
  } else {
    const Offloading here = device_alone();
    f.step = offload::simulate(
        blueprint.step_program(), blueprint.plan().sizes, step_timing(blueprint.impl(), here));
    f.measured = here.measured;
  }
  f.tokens_per_second =
      f.step.seconds > 0 ? static_cast<double>(c.G * c.B * c.T) / f.step.seconds : 0;
  for (const auto& [link, bytes] : f.step.moved_bytes) {
    f.nvme_read_bytes += link.from.kind == TierKind::nvme ? bytes : 0;
    f.nvme_written_bytes += link.to.kind == TierKind::nvme ? bytes : 0;
  }
  return f;
}

void print_forecast(const Forecast& f) {
  std::printf("step: %s predicted (bound %s by %s), %.4g tokens/s\n",
              seconds_text(f.step.seconds).c_str(),
              seconds_text(f.step.bound_seconds()).c_str(),
              f.step.bound_by().c_str(),
              f.tokens_per_second);
  std::string busy = "compute " + seconds_text(f.step.compute_seconds);
  for (const auto& [link, seconds] : f.step.busy) {
    busy += fmt::format(", {} {}", to_string(link), seconds_text(seconds));
  }
  if (f.step.shared_seconds > 0) {
    busy += ", shared links " + seconds_text(f.step.shared_seconds);
  }
  std::printf("busy: %s; %s\n", busy.c_str(), stalls_text(f.step).c_str());
  if (f.nvme_read_bytes + f.nvme_written_bytes > 0) {
    std::printf("nvme: %s read and %s written per step; at that pace %s written per day\n",
                offload::bytes_text(f.nvme_read_bytes).c_str(),
                offload::bytes_text(f.nvme_written_bytes).c_str(),
                large_bytes_text(f.nvme_written_per_day()).c_str());
  }
  if (f.nvme_written_budget) {
    std::printf("nvme writes: %s per step at most, memory.nvme_writes allows %s\n",
                offload::bytes_text(f.nvme_most_written_bytes).c_str(),
                offload::bytes_text(*f.nvme_written_budget).c_str());
  }
  std::printf("rates: %s\n",
              f.measured ? "measured by strata bench hardware"
                         : "assumed, not measured; strata bench hardware --paths DIR measures "
                           "this machine");
}

nlohmann::json forecast_json(const Forecast& f) {
  nlohmann::json busy{{"compute", f.step.compute_seconds}};
  nlohmann::json moved = nlohmann::json::object();
  for (const auto& [link, seconds] : f.step.busy) {
    busy[to_string(link)] = seconds;
    moved[to_string(link)] = f.step.moved_bytes.at(link);
  }
  if (f.step.shared_seconds > 0) {
    busy["shared links"] = f.step.shared_seconds;
  }
  nlohmann::json stalls = nlohmann::json::array();
  for (const auto& [cause, seconds] : f.step.stalls_by_cause) {
    stalls.push_back(
        {{"link", to_string(cause.link)}, {"pack", to_string(cause.cls)}, {"seconds", seconds}});
  }
  return {{"seconds", f.step.seconds},
          {"bound_seconds", f.step.bound_seconds()},
          {"bound_by", f.step.bound_by()},
          {"tokens_per_second", f.tokens_per_second},
          {"busy_seconds", busy},
          {"moved_bytes", moved},
          {"stalled_seconds", f.step.stalled_seconds()},
          {"stalls", stalls},
          {"nvme_read_bytes", f.nvme_read_bytes},
          {"nvme_written_bytes", f.nvme_written_bytes},
          {"nvme_most_written_bytes", f.nvme_most_written_bytes},
          {"nvme_written_budget_bytes",
           f.nvme_written_budget ? nlohmann::json(*f.nvme_written_budget) : nlohmann::json()},
          {"nvme_written_bytes_per_day", f.nvme_written_per_day()},
          {"rates", f.measured ? "measured" : "assumed"}};
}

}  // namespace strata::launch
