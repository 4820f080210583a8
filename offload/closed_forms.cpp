#include "offload/closed_forms.h"

#include <algorithm>

namespace strata::offload {

double swapped_fraction(const LongContextBlock& block,
                        const CopyRates& rates,
                        std::int64_t host_bytes,
                        int blocks) {
  const double always = block.input_bytes + block.attention_bytes;
  const double hidden =
      std::min(rates.to_host * block.forward_seconds, rates.to_device * block.backward_seconds);
  const double room = blocks > 2 ? static_cast<double>(host_bytes) / (blocks - 2) : hidden;
  return std::clamp((std::min(hidden, room) - always) / block.rest_bytes, 0.0, 1.0);
}

double free_swap_length(double bytes_per_token,
                        const TokenWork& work,
                        double flops_per_second,
                        double to_host) {
  const double copied = bytes_per_token * flops_per_second / to_host;
  return std::max(0.0, (copied - work.product_flops) / (2 * work.attention_width));
}

namespace {
constexpr double kFlopsPerToken = 8;  // and parameter: forward, its repetition, backward
}

double break_even_tokens(
    double state_bytes, double flops_per_second, double read, double write, bool one_drive) {
  const double of_a_byte = one_drive ? 1 / read + 1 / write : std::max(1 / read, 1 / write);
  return state_bytes / kFlopsPerToken * flops_per_second * of_a_byte;
}

double break_even_tokens(double flops_per_second, double host_updates_per_second) {
  return flops_per_second / kFlopsPerToken / host_updates_per_second;
}

namespace {

struct Line {
  double at_zero = 0, slope = 0;
  double at(double x) const { return at_zero + slope * x; }
};

/// Busy seconds by the share of parameters updated on the device. Those of the host send 2 bytes of
/// gradient down and 2 of weight up, those of the device their state both ways.
std::array<Line, 4> lines_of(const UpdateWindow& w) {
  constexpr double kHalf = 2;
  const auto link = [&](double other, double rate) {
    return Line{other + kHalf * w.params / rate, (w.state_bytes - kHalf) * w.params / rate};
  };
  const double host = w.params / w.host_updates;
  return {Line{host, -host},
          link(w.up_seconds, w.rates.to_device),
          link(w.down_seconds, w.rates.to_host),
          Line{w.device_seconds, w.params / w.device_updates}};
}

}  // namespace

double window_seconds(const UpdateWindow& window, double device_fraction) {
  double most = 0;
  for (const Line& line : lines_of(window)) {
    most = std::max(most, line.at(device_fraction));
  }
  return most;
}

DeviceShare best_device_share(const UpdateWindow& window) {
  DeviceShare best{0, window_seconds(window, 0)};
  const auto consider = [&](double fraction) {
    const double seconds = window_seconds(window, fraction);
    if (seconds < best.seconds || (seconds == best.seconds && fraction < best.fraction)) {
      best = {fraction, seconds};
    }
  };
  const auto lines = lines_of(window);
  for (std::size_t a = 0; a < lines.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      const double slopes = lines[a].slope - lines[b].slope;
      const double meet = slopes == 0 ? 0 : (lines[b].at_zero - lines[a].at_zero) / slopes;
      consider(std::clamp(meet, 0.0, 1.0));
    }
  }
  consider(1);
  return best;
}

double serial_efficiency(double flops_per_byte, double bytes_per_second, double peak_flops) {
  const double fed = flops_per_byte * bytes_per_second;
  return fed / (fed + peak_flops);
}

}  // namespace strata::offload
