#pragma once
#include <map>
#include <span>
#include <vector>

#include "offload/simulator.h"

namespace strata::offload {

/// Bytes per second of each of the links that are used at a time: all have equal parts of the
/// capacity; what one's own rate leaves of its part goes to the others. Alone, a link has its own
/// rate.
std::vector<double> shared_rates(std::span<const double> own_rates, double capacity);

/// The least time in which links that share a capacity can move these bytes, in whatever order.
double least_seconds(const SharedLinks& shared,
                     const std::map<Link, double>& own_rates,
                     const std::map<Link, std::int64_t>& bytes);

/// Transfers under way on links that share a capacity, at most one on each link.
class SharedCapacity {
 public:
  explicit SharedCapacity(double bytes_per_second) : capacity_(bytes_per_second) {}
  void start(int index, double own_rate, double bytes, double now);
  /// When the next one is done, if nothing starts before; infinite: none is under way.
  double next_end() const;
  /// Takes that one out.
  int finish_next();

 private:
  struct Flow {
    int index = 0;
    double own_rate = 0, left = 0, rate = 0;
  };
  void advance(double now);
  void divide();
  std::vector<Flow>::const_iterator first_done() const;

  double capacity_;
  double now_ = 0;
  std::vector<Flow> flows_;
};

}  // namespace strata::offload
