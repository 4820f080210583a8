#include "optim/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::optim {
namespace {

std::int64_t decay_end(const LrScheduleConfig& config, std::int64_t total_steps) {
  return config.decay_steps > 0 ? config.decay_steps : total_steps;
}

/// Share of the way from the peak (1) to the final rate (0); `progress` of the decay in (0, 1).
double height(Decay kind, double progress) {
  switch (kind) {
    case Decay::constant:
      return 1.0;
    case Decay::linear:
      return 1.0 - progress;
    case Decay::cosine:
      return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    case Decay::wsd:
      return 1.0 - std::sqrt(progress);
  }
  return 0.0;
}

void require(bool holds, std::string_view key, std::string_view needed, double got) {
  if (!holds) {
    throw Error(Errc::config, fmt::format("train.schedule.{}: needs {}, got {}", key, needed, got));
  }
}

}  // namespace

void LrScheduleConfig::validate(std::int64_t total_steps) const {
  require(lr >= 0 && std::isfinite(lr), "lr", "a finite value of at least 0", lr);
  require(final_fraction >= 0 && final_fraction <= 1,
          "final_fraction",
          "0 <= final_fraction <= 1",
          final_fraction);
  require(cooldown_fraction > 0 && cooldown_fraction <= 1,
          "cooldown_fraction",
          "0 < cooldown_fraction <= 1",
          cooldown_fraction);
  require(warmup_steps >= 0, "warmup_steps", "at least 0", static_cast<double>(warmup_steps));
  require(decay_steps >= 0, "decay_steps", "at least 0", static_cast<double>(decay_steps));
  const std::int64_t end = decay_end(*this, total_steps);
  if (warmup_steps > end) {
    throw Error(Errc::config,
                fmt::format("train.schedule.warmup_steps: warm-up of {} steps does not end before "
                            "step {}; set it to at most {} or raise train.{}",
                            warmup_steps,
                            end,
                            end,
                            decay_steps > 0 ? "schedule.decay_steps" : "steps"));
  }
}

double learning_rate(const LrScheduleConfig& config, std::int64_t step, std::int64_t total_steps) {
  const std::int64_t warmup = config.warmup_steps;
  if (warmup > 0 && step <= warmup) {
    return config.lr * static_cast<double>(step) / static_cast<double>(warmup);
  }
  if (config.kind == Decay::constant) {
    return config.lr;
  }
  const auto end = static_cast<double>(decay_end(config, total_steps));
  auto start = static_cast<double>(warmup);
  if (config.kind == Decay::wsd) {
    start = std::max(start, end - config.cooldown_fraction * end);
  }
  const auto now = static_cast<double>(step);
  const double lowest = config.lr * config.final_fraction;
  if (now >= end) {
    return lowest;
  }
  if (now <= start) {
    return config.lr;
  }
  return lowest + height(config.kind, (now - start) / (end - start)) * (config.lr - lowest);
}

}  // namespace strata::optim
