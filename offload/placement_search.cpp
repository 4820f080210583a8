#include "offload/placement_search.h"

#include <algorithm>
#include <functional>
#include <random>
#include <utility>

namespace strata::offload {
namespace {

constexpr double kWorthIt = 0.999;  // of the seconds before
constexpr Tier kDevice{TierKind::device, 0}, kPinned{TierKind::pinned, 0}, kHost{TierKind::host, 0};

/// What becomes of some blocks: the parts that are named go where they say.
struct Change {
  std::vector<std::pair<Tier Tiers::*, Tier>> parts;
};
struct Blocks {
  int begin = 0, end = 0, stride = 1;
};

TiersByBlock changed(TiersByBlock tiers, const Change& change, Blocks blocks) {
  for (int b = blocks.begin; b < blocks.end; b += blocks.stride) {
    for (const auto& [part, tier] : change.parts) {
      tiers[static_cast<std::size_t>(b)].*part = tier;
    }
  }
  return tiers;
}

/// Fits better, or as well and is faster.
bool better(const Verdict& then, const Verdict& before) {
  return then.missing_bytes == before.missing_bytes ? then.seconds < before.seconds * kWorthIt
                                                    : then.missing_bytes < before.missing_bytes;
}

class Search {
 public:
  Search(const PlacementTask& task, const SearchSettings& settings)
      : task_(task),
        most_(static_cast<int>(std::min<std::int64_t>(
            settings.judgements, settings.instructions / std::ssize(task.programs.front()->step)))),
        judge_(task, settings.effort) {
    for (const auto& [tier, bytes] : task.budgets) {
      tiers_.push_back(tier);
    }
    update_tiers_ = {kDevice};
    for (const Tier memory : {kHost, kPinned}) {
      if (task.budgets.contains(memory)) {
        update_tiers_.push_back(memory);
      }
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
    look_at_filled_memories(lowest);
    look_at_equal_blocks();
    const int all = judge_.blocks(), aimed = most_ / 4 * 3;
    const bool fits = !judge_.best().empty();
    improve(fits ? judge_.best() : judge_.nearest(), all, (judge_.judged() + aimed) / 2);
    improve(lowest, all, aimed);
    shake(most_);
    if (judge_.best().empty()) {
      judge_.refuse(lowest);
    }
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
  void look_at_filled_memories(const TiersByBlock& lowest);
  void look_at_equal_blocks();
  double room_taken(const TiersByBlock& from, const TiersByBlock& to) const;
  std::vector<Blocks> groups_of(const Change& change, int width) const;
  std::vector<Candidate> candidates(const TiersByBlock& now, int width, int limit);
  void improve(TiersByBlock now, int width, int limit);
  void shake(int limit);

  const PlacementTask& task_;
  const int most_;  // judgements
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

/// Where several memories are to be filled, single changes come late to what a count of bytes says:
/// in files is what no memory has room for, and of state, which moves most, as little as possible.
void Search::look_at_filled_memories(const TiersByBlock& lowest) {
  const auto computes_nothing = [](Tier tier) {
    return tier != kDevice && tier.kind != TierKind::nvme;
  };
  if (std::ranges::count_if(tiers_, computes_nothing) < 2) {
    return;
  }
  for (const Tier update : update_tiers_) {
    Budgets left = task_.budgets;
    std::int64_t working = 0;
    for (int b = 0; b < judge_.blocks(); ++b) {
      std::int64_t of_block = 0;
      for (std::size_t kind = 0; kind < kPackKinds.size(); ++kind) {
        of_block += judge_.bytes(kind, b);
        left[lowest[static_cast<std::size_t>(b)].*kPackKinds[kind]] -= judge_.bytes(kind, b);
      }
      working = std::max(working, of_block);
    }
    left[update] -= 2 * working;  // of a block that is updated, and of the next one
    TiersByBlock filled = lowest;
    for (Tiers& tiers : filled) {
      tiers.update = update;
    }
    for (const std::size_t kind : {2, 0, 3, 1}) {
      for (int b = 0; b < judge_.blocks(); ++b) {
        Tier& home = filled[static_cast<std::size_t>(b)].*kPackKinds[kind];
        const auto room = std::ranges::find_if(left, [&](const auto& budget) {
          return computes_nothing(budget.first) && budget.second >= judge_.bytes(kind, b);
        });
        if (home.kind == TierKind::nvme && room != left.end()) {
          room->second -= judge_.bytes(kind, b);
          home = room->first;
        }
      }
    }
    judge_(filled);
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
    if (!spent(most_ / 2)) {
      judge_(TiersByBlock(blocks, tiers));
    }
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

/// Neighbours; and of where updates run also every second block and so on: those of the device are
/// best spread among those of the host.
std::vector<Blocks> Search::groups_of(const Change& change, int width) const {
  std::vector<Blocks> groups;
  for (int b = 0; b < judge_.blocks(); b += width) {
    groups.push_back({b, std::min(b + width, judge_.blocks())});
  }
  if (width == judge_.blocks() && change.parts.size() <= 2 &&
      change.parts.front().first == &Tiers::update) {
    for (const int stride : {2, 3, 4, 6, 8}) {
      if (stride < judge_.blocks()) {
        groups.push_back({0, judge_.blocks(), stride});
      }
    }
  }
  return groups;
}

/// What helps, best first.
std::vector<Search::Candidate> Search::candidates(const TiersByBlock& now, int width, int limit) {
  const Verdict before = judge_(now);
  std::vector<Candidate> helping;
  for (std::size_t c = 0; c < changes_.size(); ++c) {
    for (const Blocks blocks : groups_of(changes_[c], width)) {
      if (spent(limit)) {
        break;
      }
      const TiersByBlock next = changed(now, changes_[c], blocks);
      if (const Verdict then = judge_(next); better(then, before)) {
        constexpr double kNothing = 1e-6;  // what frees memory costs none of it
        const double gain = before.missing_bytes > 0
                                ? static_cast<double>(before.missing_bytes - then.missing_bytes)
                                : before.seconds - then.seconds;
        helping.push_back({gain / std::max(kNothing, room_taken(now, next)), c, blocks});
      }
    }
  }
  std::ranges::stable_sort(helping, std::greater<>(), &Candidate::score);
  return helping;
}

/// As long as something helps: for groups of `width` blocks, then for halves of them.
void Search::improve(TiersByBlock now, int width, int limit) {
  Verdict verdict = judge_(now);
  for (; width > 0 && !spent(limit); width /= 2) {
    for (bool helped = true; helped && !spent(limit);) {
      helped = false;
      // What helped before others were taken may not any more: each is judged again.
      for (const Candidate& candidate : candidates(now, width, limit)) {
        if (spent(limit)) {
          break;
        }
        const TiersByBlock next = changed(now, changes_[candidate.change], candidate.blocks);
        if (const Verdict then = judge_(next); better(then, verdict)) {
          now = next;
          verdict = then;
          helped = true;
        }
      }
    }
  }
}

/// Out of where no single change helps: some changes at random, and on from there.
void Search::shake(int limit) {
  const int width = std::max(1, judge_.blocks() / 8);
  std::mt19937 engine(1);
  const auto one_of = [&](std::size_t count) { return engine() % count; };
  for (int kick = 0; kick < limit && !spent(limit); ++kick) {
    TiersByBlock now = judge_.best().empty() ? judge_.nearest() : judge_.best();
    for (std::size_t k = one_of(3) + 1; k > 0; --k) {
      const int b = static_cast<int>(one_of(static_cast<std::size_t>(judge_.blocks())));
      const int begin = b / width * width;
      now = changed(now,
                    changes_[one_of(changes_.size())],
                    {begin, std::min(begin + width, judge_.blocks())});
    }
    improve(now, width, limit);
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
    t.update = budgets.contains(kHost) ? kHost : budgets.contains(kPinned) ? kPinned : kDevice;
  }
  return tiers;
}

FoundPlacement search_placement(const PlacementTask& task, const SearchSettings& settings) {
  return Search(task, settings).run();
}

FoundPlan search_and_place(std::span<Program* const> programs,
                           const PackSizes& sizes,
                           const Timing& timing,
                           const Budgets& budgets,
                           const SearchSettings& settings,
                           std::int64_t most_written) {
  constexpr int kTries = 4;
  std::vector<Program> bare;
  for (const Program* const program : programs) {
    bare.push_back(*program);
  }
  Budgets allowed = budgets;
  std::int64_t writes = most_written;
  for (int attempt = 1;; ++attempt) {
    std::vector<const Program*> searched;
    for (const Program& program : bare) {
      searched.push_back(&program);
    }
    FoundPlacement found = search_placement({searched, sizes, timing, allowed, writes}, settings);
    try {
      Plan plan = place(programs, found.placement, sizes, timing, budgets);
      require_writes(*programs.front(), sizes, most_written);
      return {std::move(found), std::move(plan)};
    } catch (const Infeasible& error) {
      for (std::size_t k = 0; k < bare.size(); ++k) {
        *programs[k] = bare[k];
      }
      if (attempt == kTries) {
        throw;
      }
      (error.misfit().of == Misfit::Of::writes ? writes : allowed.at(error.misfit().tier)) -=
          error.misfit().missing_bytes();
    }
  }
}

}  // namespace strata::offload
