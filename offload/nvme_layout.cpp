#include "offload/nvme_layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::offload {
namespace {

std::int64_t rounded_up(std::int64_t size, std::int64_t to) {
  return (size + to - 1) / to * to;
}

}  // namespace

std::vector<std::int64_t> largest_remainder(std::int64_t total,
                                            std::span<const double> weights,
                                            std::span<const double> short_of) {
  const std::size_t n = weights.size();
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> quotas(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double exact = all > 0 ? static_cast<double>(total) * weights[i] / all : 0;
    quotas[i] = std::max(0.0, exact + (short_of.empty() ? 0.0 : short_of[i]));
  }
  const double sum = std::accumulate(quotas.begin(), quotas.end(), 0.0);
  std::vector<std::int64_t> counts(n, 0);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::int64_t left = total;
  for (std::size_t i = 0; i < n; ++i) {
    quotas[i] = sum > 0 ? quotas[i] * static_cast<double>(total) / sum : 0;
    counts[i] = static_cast<std::int64_t>(std::floor(quotas[i] + 1e-9));
    left -= counts[i];
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const double rest_a = quotas[a] - static_cast<double>(counts[a]);
    const double rest_b = quotas[b] - static_cast<double>(counts[b]);
    return rest_a > rest_b + 1e-9;
  });
  for (std::size_t k = 0; left > 0; ++k, --left) {
    ++counts[order[k % n]];
  }
  return counts;
}

NvmeLayout::NvmeLayout(std::vector<Path> paths,
                       std::int64_t stripe_bytes,
                       std::vector<double> rates)
    : stripe_bytes_(stripe_bytes), rates_(std::move(rates)), short_of_(paths.size(), 0) {
  for (const Path& path : paths) {
    paths_.push_back({.path = path});
  }
}

std::int64_t NvmeLayout::unit_bytes(const Slot& slot, std::size_t unit) const {
  return std::min(stripe_bytes_, slot.size_bytes - static_cast<std::int64_t>(unit) * stripe_bytes_);
}

std::int64_t NvmeLayout::length_on(std::size_t path, std::int64_t size_bytes) const {
  return rounded_up(size_bytes, paths_[path].path.alignment);
}

std::vector<double> NvmeLayout::open_rates() const {
  std::vector<double> rates = rates_;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    rates[i] = paths_[i].closed ? 0 : rates[i];
  }
  return rates;
}

/// How many of a slot's units belong on each path, so that neither the slot nor all that were laid
/// out for these rates are further from them than a unit.
std::vector<std::int64_t> NvmeLayout::targets(std::int64_t units) const {
  std::vector<double> short_of = short_of_;
  for (double& units_short : short_of) {
    units_short = std::clamp(units_short, -1.0, 1.0);
  }
  return largest_remainder(units, open_rates(), short_of);
}

void NvmeLayout::note_laid_out(Slot& slot) {
  const std::vector<double> rates = open_rates();
  const double all = std::accumulate(rates.begin(), rates.end(), 0.0);
  const std::vector<std::int64_t> has = counts(slot);
  for (std::size_t i = 0; i < paths_.size() && all > 0; ++i) {
    short_of_[i] +=
        static_cast<double>(slot.units.size()) * rates[i] / all - static_cast<double>(has[i]);
  }
  slot.shares_version = version_;
}

std::vector<std::int64_t> NvmeLayout::counts(const Slot& slot) const {
  std::vector<std::int64_t> result(paths_.size(), 0);
  for (const Unit& unit : slot.units) {
    ++result[index(unit.path)];
  }
  return result;
}

bool NvmeLayout::take(std::size_t path, std::int64_t size_bytes, Unit& unit) {
  Room& room = paths_[path];
  const std::int64_t length = length_on(path, size_bytes);
  if (room.closed) {
    return false;
  }
  std::vector<std::int64_t>& free = room.free[length];
  if (!free.empty()) {
    unit = {static_cast<int>(path), free.back()};
    free.pop_back();
  } else {
    if (room.end + length > room.path.budget_bytes ||
        (grow_ && !grow_(static_cast<int>(path), room.end + length))) {
      return false;
    }
    unit = {static_cast<int>(path), room.end};
    room.end += length;
  }
  ++room.units;
  room.used_bytes += length;
  return true;
}

void NvmeLayout::give_back(const Unit& unit, std::int64_t size_bytes) {
  Room& room = paths_[index(unit.path)];
  const std::int64_t length = length_on(index(unit.path), size_bytes);
  room.free[length].push_back(unit.offset);
  --room.units;
  room.used_bytes -= length;
}

/// On the path that is furthest behind what it should hold, or else on any with room. `want`: what
/// each path still lacks, in units.
bool NvmeLayout::place_unit(Slot& slot, std::size_t unit, std::vector<double>& want) {
  std::vector<std::size_t> order(paths_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(
      order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return want[a] > want[b]; });
  for (const std::size_t path : order) {
    if (take(path, unit_bytes(slot, unit), slot.units[unit])) {
      want[path] -= 1;
      return true;
    }
  }
  return false;
}

std::vector<NvmeLayout::Slot> NvmeLayout::place(std::span<const std::int64_t> sizes) {
  std::vector<Slot> slots;
  std::int64_t missing = 0, needed = 0, budget = 0;
  for (const std::int64_t size : sizes) {
    Slot& slot = slots.emplace_back();
    slot.size_bytes = size;
    const std::int64_t units = (size + stripe_bytes_ - 1) / stripe_bytes_;
    slot.units.resize(static_cast<std::size_t>(units));
    const std::vector<std::int64_t> target = targets(units);
    std::vector<double> want(paths_.size(), 0);
    for (std::size_t k = 0; k < slot.units.size(); ++k) {
      for (std::size_t i = 0; i < want.size(); ++i) {
        want[i] += static_cast<double>(target[i]) / static_cast<double>(units);
      }
      const bool placed = place_unit(slot, k, want);
      missing += placed ? 0 : unit_bytes(slot, k);
    }
    note_laid_out(slot);
    needed += size;
  }
  for (const Room& room : paths_) {
    budget += room.path.budget_bytes;
  }
  if (missing > 0) {
    throw Error(Errc::infeasible,
                fmt::format("nvme: the extents need {} bytes and the budgets of {} paths hold {}: "
                            "{} bytes are missing; raise memory.nvme or offload less",
                            needed,
                            paths_.size(),
                            budget,
                            needed > budget ? needed - budget : missing));
  }
  return slots;
}

void NvmeLayout::set_rates(std::vector<double> rates) {
  rates_ = std::move(rates);
  ++version_;
  std::fill(short_of_.begin(), short_of_.end(), 0.0);
}

bool NvmeLayout::move(Slot& slot, std::size_t unit, std::span<const std::int64_t> want) {
  const Unit old = slot.units[unit];
  const std::vector<std::int64_t> has = counts(slot);
  std::vector<std::size_t> order(paths_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return want[a] - has[a] > want[b] - has[b];
  });
  const bool leaves = paths_[index(old.path)].closed;
  for (const std::size_t path : order) {
    const bool lacks = want[path] > has[path];
    if ((lacks || leaves) && path != index(old.path) &&
        take(path, unit_bytes(slot, unit), slot.units[unit])) {
      give_back(old, unit_bytes(slot, unit));
      return true;
    }
  }
  return false;
}

void NvmeLayout::renew(Slot& slot) {
  const std::vector<std::int64_t> before = counts(slot);
  bool leaves = false;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    leaves = leaves || (paths_[i].closed && before[i] > 0);
  }
  if (slot.shares_version == version_ && !leaves) {
    return;
  }
  const auto units = static_cast<std::int64_t>(slot.units.size());
  const std::vector<std::int64_t> want = targets(units);
  bool complete = true;
  for (std::size_t k = 0; k < slot.units.size(); ++k) {
    const std::size_t from = index(slot.units[k].path);
    if (counts(slot)[from] > want[from] || paths_[from].closed) {
      complete = move(slot, k, want) && complete;
    }
  }
  if (complete) {
    note_laid_out(slot);
  }
}

std::int64_t NvmeLayout::free_bytes() const {
  std::int64_t sum = 0;
  for (const Room& room : paths_) {
    sum += room.closed ? 0 : room.path.budget_bytes - room.used_bytes;
  }
  return sum;
}

void NvmeLayout::close(int path) {
  paths_[index(path)].closed = true;
  std::fill(short_of_.begin(), short_of_.end(), 0.0);
}

double NvmeLayout::share(int path) const {
  std::int64_t all = 0;
  for (const Room& room : paths_) {
    all += room.used_bytes;
  }
  return all > 0 ? static_cast<double>(paths_[index(path)].used_bytes) / static_cast<double>(all)
                 : 0;
}

}  // namespace strata::offload
