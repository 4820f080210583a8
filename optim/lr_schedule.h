#pragma once
#include <cstdint>

namespace strata::optim {

enum class Decay : std::uint8_t { constant, linear, cosine, wsd };

/// Learning rate as a pure function of the step.
struct LrScheduleConfig {
  Decay kind = Decay::cosine;
  double lr = 3e-4;                // peak
  double final_fraction = 0.1;     // of the peak, at and after `decay_steps`
  std::int64_t warmup_steps = 0;   // linear from 0
  std::int64_t decay_steps = 0;    // step at which decay ends; 0: the length of the run
  double cooldown_fraction = 0.2;  // wsd: share of decay_steps spent falling, by 1 - sqrt
  /// Throws config, naming the key and what to change.
  void validate(std::int64_t total_steps) const;
};
/// `step` counts from 0, where warm-up gives 0; it reaches the peak at step == warmup_steps. Decay
/// begins there and stays at its last value after decay_steps.
double learning_rate(const LrScheduleConfig& config, std::int64_t step, std::int64_t total_steps);

}  // namespace strata::optim
