#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "offload/nvme_store.h"

namespace strata::offload {

/// How fast the paths are: first as measured, then as observed.
class NvmeRates {
 public:
  explicit NvmeRates(std::span<const NvmePath> paths);
  /// A step, or a commit where steps are not noted, with the counters at its end. Every 50 of them,
  /// if the rate of a path has moved by more than 15 % since the last time: true, new shares.
  bool observe(std::span<const PathCounters> counters);
  const std::vector<double>& rates() const { return rates_; }

 private:
  struct Seen {
    std::int64_t bytes = 0;
    double busy_seconds = 0;
  };
  std::vector<double> rates_;     // what shares follow
  std::vector<double> averages_;  // exponential; 0: nothing seen
  std::vector<Seen> seen_;
  std::int64_t events_ = 0;
};

}  // namespace strata::offload
