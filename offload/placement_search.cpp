#include "offload/placement_search.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace strata::offload {
namespace {

constexpr double kWorthIt = 0.999;  // of the seconds before
constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0};

/// What becomes of some blocks: the parts that are named go where they say.
struct Change {
  std::vector<std::pair<Tier Tiers::*, Tier>> parts;
};
struct Blocks {
  int begin = 0, end = 0;
};

TiersByBlock changed(TiersByBlock tiers, const Change& change, Blocks blocks) {
  for (int b = blocks.begin; b < blocks.end; ++b) {
    for (const auto& [part, tier] : change.parts) {
      tiers[static_cast<std::size_t>(b)].*part = tier;
    }
  }
  return tiers;
}

class Search {
 public:
  Search(const PlacementTask& task, const SearchSettings& settings)
      : task_(task), settings_(settings), judge_(task, settings.effort) {
    for (const auto& [tier, bytes] : task.budgets) {
      tiers_.push_back(tier);
    }
    update_tiers_ = {kDevice};
    if (task.budgets.contains(kHost)) {
      update_tiers_.push_back(kHost);
    }
    for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
      for (int b = 0; b < judge_.blocks(); ++b) {
        present_[kind] = present_[kind] || judge_.bytes(kind, b) > 0;
      }
    }
    make_changes();
  }

  FoundPlacement run() {
    const TiersByBlock lowest = lowest_placement(judge_, task_.budgets);
    const Verdict first = judge_(lowest);
    look_at_equal_blocks();
    if (judge_.best().empty()) {
      repair();
    }
    if (judge_.best().empty()) {
      judge_.refuse(lowest);
    }
    const TiersByBlock uniform = judge_.best();
    const int reserve = settings_.judgements - settings_.local_judgements;
    improve(uniform, judge_.judged() + (reserve - judge_.judged()) / 2);
    if (first.missing_bytes == 0) {
      improve(lowest, reserve);
    }
    exchange();
    return {.by_block = judge_.best(),
            .placement = placement_of(judge_.best(), task_.sizes),
            .seconds = judge_.best_seconds(),
            .lowest_seconds = first.seconds,
            .judged = judge_.judged()};
  }

 private:
  struct Candidate {
    double score = 0;
    std::size_t change = 0;
    Blocks blocks;
  };

  bool spent(int limit) const { return judge_.judged() >= limit; }
  void make_changes();
  void look_at_equal_blocks();
  void repair();
  void try_pairs(const TiersByBlock& now, const std::function<bool()>& enough);
  /// Groups of so many blocks, one after the other, as long as anything may be judged.
  void for_groups(int width, const std::function<void(Blocks)>& look) {
    for (int b = 0; b < judge_.blocks() && !spent(settings_.judgements); b += width) {
      look({b, std::min(b + width, judge_.blocks())});
    }
  }
  double room_taken(const TiersByBlock& from, const TiersByBlock& to) const;
  std::vector<Candidate> candidates(const TiersByBlock& now, int width, int limit);
  void improve(TiersByBlock now, int limit);
  void exchange();

  const PlacementTask& task_;
  const SearchSettings& settings_;
  PlacementJudge judge_;
  std::vector<Tier> tiers_, update_tiers_;
  std::array<bool, 4> present_{};
  std::vector<Change> changes_;
};

/// One kind of bytes; where updates run; and those that are worth something only together: an
/// update and what it uses.
void Search::make_changes() {
  std::vector<std::size_t> kinds;
  for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
    if (present_[kind]) {
      kinds.push_back(kind);
    }
  }
  for (const std::size_t kind : kinds) {
    for (const Tier tier : tiers_) {
      changes_.push_back({{{kPackKinds[kind], tier}}});
    }
  }
  for (const Tier update : update_tiers_) {
    if (update_tiers_.size() > 1) {
      changes_.push_back({{{&Tiers::update, update}}});
    }
    for (const Tier tier : tiers_) {
      Change all{{{&Tiers::update, update}}};
      for (const std::size_t kind : {std::size_t{2}, std::size_t{0}, std::size_t{3}}) {
        if (present_[kind]) {
          all.parts.emplace_back(kPackKinds[kind], tier);
          changes_.push_back(all);
        }
      }
    }
  }
}

/// Every placement of equal blocks.
void Search::look_at_equal_blocks() {
  const auto blocks = static_cast<std::size_t>(judge_.blocks());
  std::vector<Tiers> all{Tiers{}};
  const auto vary = [&](Tier Tiers::*part, const std::vector<Tier>& over) {
    std::vector<Tiers> more;
    for (const Tiers& tiers : all) {
      for (const Tier tier : over) {
        more.push_back(tiers);
        more.back().*part = tier;
      }
    }
    all = std::move(more);
  };
  for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
    if (present_[kind]) {
      vary(kPackKinds[kind], tiers_);
    }
  }
  vary(&Tiers::update, update_tiers_);
  for (const Tiers& tiers : all) {
    if (!spent(settings_.judgements / 2)) {
      judge_(TiersByBlock(blocks, tiers));
    }
  }
}

/// Towards fewer missing bytes, until none are: in large steps, then in small ones, then by two
/// changes at a time.
void Search::repair() {
  const auto missing = [&] { return judge_(judge_.nearest()).missing_bytes; };
  for (int width = judge_.blocks(); width > 0; width /= 2) {
    std::int64_t before = 0;
    do {
      before = missing();
      const TiersByBlock now = judge_.nearest();
      for (const Change& change : changes_) {
        for_groups(width, [&](Blocks blocks) { judge_(changed(now, change, blocks)); });
      }
    } while (missing() < before && missing() > 0 && !spent(settings_.judgements));
  }
  for (std::int64_t before = missing() + 1; missing() < before && missing() > 0;) {
    before = missing();
    try_pairs(judge_.nearest(), [&] { return missing() < before; });
  }
}

/// Bytes that come into memory, as parts of its budgets.
double Search::room_taken(const TiersByBlock& from, const TiersByBlock& to) const {
  double taken = 0;
  for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
    for (int b = 0; b < judge_.blocks(); ++b) {
      const Tier tier = to[static_cast<std::size_t>(b)].*kPackKinds[kind];
      if (tier != from[static_cast<std::size_t>(b)].*kPackKinds[kind] &&
          tier.kind != TierKind::nvme) {
        taken += static_cast<double>(judge_.bytes(kind, b)) /
                 static_cast<double>(std::max<std::int64_t>(1, task_.budgets.at(tier)));
      }
    }
  }
  return taken;
}

/// What helps, best first.
std::vector<Search::Candidate> Search::candidates(const TiersByBlock& now, int width, int limit) {
  const double before = judge_(now).seconds;
  std::vector<Candidate> helping;
  for (std::size_t c = 0; c < changes_.size(); ++c) {
    for (int b = 0; b < judge_.blocks() && !spent(limit); b += width) {
      const Blocks blocks{b, std::min(b + width, judge_.blocks())};
      const TiersByBlock next = changed(now, changes_[c], blocks);
      if (next == now) {
        continue;
      }
      const double seconds = judge_(next).seconds;
      if (seconds < before * kWorthIt) {
        constexpr double kNothing = 1e-6;  // what frees memory costs none of it
        helping.push_back(
            {(before - seconds) / std::max(kNothing, room_taken(now, next)), c, blocks});
      }
    }
  }
  std::ranges::stable_sort(helping, std::greater<>(), &Candidate::score);
  return helping;
}

void Search::improve(TiersByBlock now, int limit) {
  double seconds = judge_(now).seconds;
  for (int width = judge_.blocks(); width > 0 && !spent(limit); width /= 2) {
    for (bool better = true; better && !spent(limit);) {
      better = false;
      // What helped before others were taken may not any more: each is judged again.
      for (const Candidate& candidate : candidates(now, width, limit)) {
        const TiersByBlock next = changed(now, changes_[candidate.change], candidate.blocks);
        const double then = judge_(next).seconds;
        if (then < seconds * kWorthIt) {
          now = next;
          seconds = then;
          better = true;
        }
      }
    }
  }
}

/// Two changes at a time, each of one block or of some, until that is enough.
void Search::try_pairs(const TiersByBlock& now, const std::function<bool()>& enough) {
  const int width = std::max(1, judge_.blocks() / 8);
  for (const Change& first : changes_) {
    for_groups(width, [&](Blocks blocks) {
      const TiersByBlock one = changed(now, first, blocks);
      for (const Change& second : changes_) {
        for_groups(width, [&](Blocks others) {
          if (one != now && !enough()) {
            judge_(changed(one, second, others));
          }
        });
      }
    });
  }
}

/// From the best that is known.
void Search::exchange() {
  for (double before = std::numeric_limits<double>::infinity();
       judge_.best_seconds() < before * kWorthIt && !spent(settings_.judgements);) {
    before = judge_.best_seconds();
    const TiersByBlock now = judge_.best();
    try_pairs(now, [&] { return judge_.best_seconds() < before * kWorthIt; });
  }
}

}  // namespace

TiersByBlock lowest_placement(const PlacementJudge& judge, const Budgets& budgets) {
  TiersByBlock tiers(static_cast<std::size_t>(judge.blocks()));
  Budgets left = budgets;
  for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
    for (int b = 0; b < judge.blocks(); ++b) {
      for (auto budget = left.rbegin(); budget != left.rend(); ++budget) {
        if (budget->second >= judge.bytes(kind, b)) {
          tiers[static_cast<std::size_t>(b)].*kPackKinds[kind] = budget->first;
          budget->second -= judge.bytes(kind, b);
          break;
        }
      }
    }
  }
  for (Tiers& t : tiers) {
    t.update = budgets.contains(kHost) ? kHost : kDevice;
  }
  return tiers;
}

FoundPlacement search_placement(const PlacementTask& task, const SearchSettings& settings) {
  return Search(task, settings).run();
}

}  // namespace strata::offload
