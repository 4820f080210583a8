// Places in one range of bytes for buffers that come and go.
#include "core/offsets.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/philox.h"

namespace strata {
namespace {

std::int64_t first_event(const Lifetime& lifetime) {
  return lifetime.live.empty() ? 0 : lifetime.live.front().begin;
}

/// An interval of the lifetime `owner`.
struct Stretch {
  Interval live;
  std::size_t owner = 0;
};

std::vector<Stretch> by_begin(std::span<const Lifetime> lifetimes) {
  std::vector<Stretch> stretches;
  for (std::size_t i = 0; i < lifetimes.size(); ++i) {
    for (const Interval& live : lifetimes[i].live) {
      if (live.begin < live.end) {
        stretches.push_back({live, i});
      }
    }
  }
  std::stable_sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) {
    return a.live.begin < b.live.begin;
  });
  return stretches;
}

class Packer {
 public:
  Packer(std::span<const Lifetime> lifetimes, std::int64_t alignment)
      : neighbours_(lifetimes.size()) {
    for (const Lifetime& lifetime : lifetimes) {
      STRATA_ASSERT(lifetime.size_bytes >= 0);
      sizes_.push_back((lifetime.size_bytes + alignment - 1) / alignment * alignment);
    }
    meet(by_begin(lifetimes));
  }

  /// Bytes alive at the fullest moment: no placement can do with less.
  std::int64_t least() const { return least_; }
  /// Steps of work of one `place`.
  std::int64_t work() const { return work_; }
  std::int64_t end(std::size_t i, const Offsets& offsets) const {
    return offsets.at[i] + sizes_[i];
  }

  /// Each in the lowest gap that those before it in the order leave.
  Offsets place(const std::vector<std::size_t>& order) const {
    constexpr std::int64_t kNowhere = -1;
    Offsets offsets;
    offsets.at.assign(sizes_.size(), kNowhere);
    std::vector<Interval> taken;  // of bytes
    for (const std::size_t i : order) {
      taken.clear();
      for (const std::size_t other : neighbours_[i]) {
        if (offsets.at[other] != kNowhere) {
          taken.push_back({offsets.at[other], end(other, offsets)});
        }
      }
      std::sort(taken.begin(), taken.end(), [](const Interval& a, const Interval& b) {
        return a.begin < b.begin;
      });
      std::int64_t at = 0;
      for (const Interval& other : taken) {
        if (other.begin - at >= sizes_[i]) {
          break;
        }
        at = std::max(at, other.end);
      }
      offsets.at[i] = at;
      offsets.total_bytes = std::max(offsets.total_bytes, at + sizes_[i]);
    }
    return offsets;
  }

 private:
  /// Who is alive together with whom, and how much at most.
  void meet(const std::vector<Stretch>& stretches) {
    std::vector<Stretch> alive;
    std::vector<int> count(sizes_.size(), 0);  // a lifetime's intervals may overlap
    std::int64_t bytes = 0;
    for (const Stretch& stretch : stretches) {
      std::erase_if(alive, [&](const Stretch& other) {
        const bool over = other.live.end <= stretch.live.begin;
        bytes -= over && --count[other.owner] == 0 ? sizes_[other.owner] : 0;
        return over;
      });
      for (const Stretch& other : alive) {
        if (other.owner != stretch.owner) {
          neighbours_[stretch.owner].push_back(other.owner);
          neighbours_[other.owner].push_back(stretch.owner);
        }
      }
      alive.push_back(stretch);
      bytes += count[stretch.owner]++ == 0 ? sizes_[stretch.owner] : 0;
      least_ = std::max(least_, bytes);
    }
    for (auto& list : neighbours_) {
      std::sort(list.begin(), list.end());
      list.erase(std::unique(list.begin(), list.end()), list.end());
      work_ += 1 + static_cast<std::int64_t>(list.size());
    }
  }

  std::vector<std::int64_t> sizes_;                   // aligned
  std::vector<std::vector<std::size_t>> neighbours_;  // alive at the same time at some moment
  std::int64_t least_ = 0, work_ = 0;
};

/// What ends highest moves half way to the front.
void blame_highest(const Packer& packer, const Offsets& offsets, std::vector<std::size_t>& order) {
  for (std::size_t k = 0; k < order.size(); ++k) {
    if (packer.end(order[k], offsets) == offsets.total_bytes) {
      const auto from = order.begin() + static_cast<std::ptrdiff_t>(k);
      const auto to = order.begin() + static_cast<std::ptrdiff_t>(k / 2);
      std::rotate(to, from, from + 1);
    }
  }
}

void swap_some(std::uint64_t seed, std::vector<std::size_t>& order) {
  constexpr std::uint64_t kSwaps = 3;
  const RandomKey key{.seed = seed};
  for (std::uint64_t k = 0; k < kSwaps; ++k) {
    const auto words = key.words(k);
    std::swap(order[words[0] % order.size()], order[words[1] % order.size()]);
  }
}

}  // namespace

Offsets assign_offsets(std::span<const Lifetime> lifetimes, std::int64_t alignment) {
  STRATA_ASSERT(alignment > 0);
  constexpr std::int64_t kWork = 2'000'000;  // some 10 ms
  constexpr int kRounds = 400;
  constexpr int kPatience = 4;  // rounds without a better one
  const Packer packer(lifetimes, alignment);
  std::vector<std::size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return lifetimes[a].size_bytes != lifetimes[b].size_bytes
               ? lifetimes[a].size_bytes > lifetimes[b].size_bytes
               : first_event(lifetimes[a]) < first_event(lifetimes[b]);
  });
  std::vector<std::size_t> best_order = order;
  Offsets best = packer.place(order);
  Offsets last = best;
  int since_best = 0;
  std::int64_t work = packer.work();
  for (std::uint64_t round = 1;
       round < kRounds && work < kWork && best.total_bytes > packer.least();
       ++round, work += packer.work()) {
    if (++since_best <= kPatience) {
      blame_highest(packer, last, order);
    } else {
      order = best_order;
      swap_some(round, order);
      since_best = 0;
    }
    last = packer.place(order);
    if (last.total_bytes < best.total_bytes) {
      best = last;
      best_order = order;
      since_best = 0;
    }
  }
  return best;
}

}  // namespace strata
