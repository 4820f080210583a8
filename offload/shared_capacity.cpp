#include "offload/shared_capacity.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace strata::offload {

std::vector<double> shared_rates(std::span<const double> own_rates, double capacity) {
  std::vector<double> rates(own_rates.begin(), own_rates.end());
  if (rates.size() < 2) {
    return rates;
  }
  std::vector<std::size_t> slowest_first(rates.size());
  std::iota(slowest_first.begin(), slowest_first.end(), 0u);
  std::ranges::stable_sort(slowest_first, {}, [&](std::size_t k) { return own_rates[k]; });
  auto others = static_cast<double>(rates.size());
  for (const std::size_t k : slowest_first) {
    rates[k] = std::min(own_rates[k], capacity / others);
    capacity -= rates[k];
    --others;
  }
  return rates;
}

/// Work is counted in seconds of its link alone. Each set of links does a certain amount of it a
/// second when used together; nothing is faster than the set that does most.
double least_seconds(const SharedLinks& shared,
                     const std::map<Link, double>& own_rates,
                     const std::map<Link, std::int64_t>& bytes) {
  std::vector<double> rates;
  double work = 0;
  for (const Link& link : shared.links) {
    if (const auto moved = bytes.find(link); moved != bytes.end() && moved->second > 0) {
      rates.push_back(own_rates.at(link));
      work += static_cast<double>(moved->second) / rates.back();
    }
  }
  STRATA_ASSERT(rates.size() < 16);
  double most = 1;
  for (unsigned set = 1; set < 1u << rates.size(); ++set) {
    std::vector<double> used;
    for (std::size_t k = 0; k < rates.size(); ++k) {
      if ((set >> k & 1u) != 0) {
        used.push_back(rates[k]);
      }
    }
    const std::vector<double> together = shared_rates(used, shared.bytes_per_second);
    double a_second = 0;
    for (std::size_t k = 0; k < used.size(); ++k) {
      a_second += together[k] / used[k];
    }
    most = std::max(most, a_second);
  }
  return work / most;
}

void SharedCapacity::advance(double now) {
  for (Flow& flow : flows_) {
    flow.left = std::max(0.0, flow.left - flow.rate * (now - now_));
  }
  now_ = now;
}

void SharedCapacity::divide() {
  std::vector<double> own;
  for (const Flow& flow : flows_) {
    own.push_back(flow.own_rate);
  }
  const std::vector<double> rates = shared_rates(own, capacity_);
  for (std::size_t k = 0; k < flows_.size(); ++k) {
    flows_[k].rate = rates[k];
  }
}

void SharedCapacity::start(int index, double own_rate, double bytes, double now) {
  advance(now);
  flows_.push_back({.index = index, .own_rate = own_rate, .left = bytes});
  divide();
}

std::vector<SharedCapacity::Flow>::const_iterator SharedCapacity::first_done() const {
  return std::ranges::min_element(flows_, {}, [](const Flow& f) { return f.left / f.rate; });
}

double SharedCapacity::next_end() const {
  if (flows_.empty()) {
    return std::numeric_limits<double>::infinity();
  }
  const Flow& first = *first_done();
  return now_ + first.left / first.rate;
}

int SharedCapacity::finish_next() {
  const auto first = first_done();
  const int index = first->index;
  const double now = next_end();
  flows_.erase(first);
  advance(now);
  divide();
  return index;
}

}  // namespace strata::offload
