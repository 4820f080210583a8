#include "offload/nvme_rates.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace strata::offload {
namespace {

constexpr std::int64_t kEventsBetween = 50;
constexpr double kNewest = 0.1;  // the weight of the last event in the average
constexpr double kMoved = 0.15;

/// State is read as often as it is written.
double both_ways(const NvmePath& path) {
  if (path.read_rate > 0 && path.write_rate > 0) {
    return 2 / (1 / path.read_rate + 1 / path.write_rate);
  }
  return std::max(path.read_rate, path.write_rate);
}

}  // namespace

NvmeRates::NvmeRates(std::span<const NvmePath> paths)
    : averages_(paths.size(), 0), seen_(paths.size()) {
  double sum = 0;
  int known = 0;
  for (const NvmePath& path : paths) {
    rates_.push_back(both_ways(path));
    sum += rates_.back();
    known += rates_.back() > 0 ? 1 : 0;
  }
  for (double& rate : rates_) {
    rate = rate > 0 ? rate : known > 0 ? sum / known : 1;
  }
}

bool NvmeRates::observe(std::span<const PathCounters> counters) {
  for (std::size_t i = 0; i < counters.size(); ++i) {
    const PathCounters& now = counters[i];
    const Seen all{now.bytes_read + now.bytes_written, now.busy_seconds};
    const double bytes = static_cast<double>(all.bytes - seen_[i].bytes);
    const double seconds = all.busy_seconds - seen_[i].busy_seconds;
    seen_[i] = all;
    if (bytes > 0 && seconds > 0) {
      const double rate = bytes / seconds;
      averages_[i] = averages_[i] > 0 ? averages_[i] + kNewest * (rate - averages_[i]) : rate;
    }
  }
  if (++events_ % kEventsBetween != 0) {
    return false;
  }
  bool moved = false;
  for (std::size_t i = 0; i < rates_.size(); ++i) {
    if (averages_[i] <= 0 && !counters[i].failed) {
      return false;  // rates are compared with each other: all or none
    }
    moved = moved || std::abs(averages_[i] - rates_[i]) > kMoved * rates_[i];
  }
  if (moved) {
    rates_ = averages_;
  }
  return moved;
}

}  // namespace strata::offload
