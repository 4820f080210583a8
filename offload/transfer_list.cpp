#include "offload/transfer_list.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "core/offsets.h"

namespace strata::offload {

int left_by(Tier tier, int index, int instructions) {
  return tier == Tier() ? index : std::min(index + 1, instructions);
}

TransferList::TransferList(const Program& program,
                           const Placement& placement,
                           const PackSizes& sizes,
                           const Budgets& budgets)
    : base_(program),
      placement_(placement),
      sizes_(sizes),
      count_(static_cast<int>(program.step.size())),
      table_(program, placement),
      rooms_(count_, budgets) {
  decide_ = static_cast<int>(
      std::find_if(program.step.begin(),
                   program.step.end(),
                   [](const Instruction& i) { return i.op == Op::decide && i.block < 0; }) -
      program.step.begin());
  hold_still();
  hold_stays();
}

void TransferList::make(int spare, const Budgets& kept_free) {
  require_room();
  for (const auto& [tier, bytes] : kept_free) {
    rooms_.keep_free(tier, bytes);
  }
  join_stays(spare);
  for (const auto& [key, stays] : table_.stays()) {
    lasts(key) ? add_lasting(key, stays) : add_passing(key, stays);
  }
}

Tier TransferList::between(PackKey key, std::size_t stay) const {
  const auto& stays = table_.stays().at(key);
  return table_.between(key, stays[stay], stays[std::min(stay + 1, stays.size() - 1)]);
}

bool TransferList::lasts(PackKey key) const {
  return std::find(base_.residents.begin(), base_.residents.end(), key) != base_.residents.end();
}

Tier TransferList::home(PackKey key) const {
  const auto at = placement_.homes.find(key);
  return at == placement_.homes.end() ? Tier() : at->second;
}

/// What no transfer touches.
void TransferList::hold_still() {
  const Program& placed = table_.framed();
  for (const Replica& home : placed.homes) {
    rooms_.hold(home.tier, 0, count_, size(home.key));
  }
  std::map<Replica, std::vector<Interval>> still;  // what no transfer touches, over all outcomes
  for (const Outcomes outcomes : possible_outcomes({&placed, 1})) {
    for (const Holding& h : holdings(placed, outcomes)) {
      const PackKey key = h.replica.key;
      const bool counted = std::ranges::binary_search(placed.homes, h.replica);
      const bool at_home = lasts(key) && !placement_.homes.contains(key);
      if (!counted && (at_home || !table_.stays().contains(key))) {
        still[h.replica].push_back({h.begin, h.end});
      }
    }
  }
  for (const auto& [replica, intervals] : still) {
    std::vector<bool> live(static_cast<std::size_t>(count_), false);
    for (const Interval& i : intervals) {
      std::fill(live.begin() + i.begin, live.begin() + i.end, true);
    }
    const std::int64_t bytes = size(replica.key);
    for (auto begin = live.begin(); begin != live.end();) {
      const auto end = std::find(begin, live.end(), !*begin);
      const auto first = static_cast<int>(begin - live.begin());
      rooms_.hold(replica.tier, first, static_cast<int>(end - live.begin()), *begin ? bytes : 0);
      begin = end;
    }
  }
}

/// What instructions use while they run, and what waits in memory between them.
void TransferList::hold_stays() {
  for (const auto& [key, stays] : table_.stays()) {
    for (std::size_t s = 0; s < stays.size(); ++s) {
      if (!lasts(key) || stays[s].tier != home(key)) {
        rooms_.hold(
            stays[s].tier, stays[s].first, left_by(stays[s].tier, stays[s].last + 1), size(key));
      }
      if (!lasts(key) && s + 1 < stays.size() && !stays[s].ends) {
        const Tier waits = between(key, s);
        rooms_.hold(waits, stays[s].last + 1, left_by(waits, stays[s + 1].first), size(key));
      }
    }
  }
}

void TransferList::require_room() const {
  for (const auto& [tier, peak] : rooms_.peaks()) {
    if (peak.size_bytes > peak.budget_bytes) {
      const Instruction& i = base_.step[static_cast<std::size_t>(peak.at)];
      throw Infeasible({tier,
                        peak.size_bytes,
                        peak.budget_bytes,
                        fmt::format("they are needed at instruction {} ({}{})",
                                    peak.at,
                                    to_string(i.op),
                                    i.block < 0 ? "" : fmt::format(" of block {}", i.block))});
    }
  }
}

/// What is used again soon stays, as long as there is room for that and for some transfers beside
/// it: shortest gaps first.
void TransferList::join_stays(int spare) {
  struct Gap {
    int length;
    PackKey key;
    int first;  // the last use before it
    auto operator<=>(const Gap&) const = default;
  };
  std::set<Gap> gaps;
  std::map<Tier, std::int64_t> largest;
  for (const auto& [key, stays] : table_.stays()) {
    for (std::size_t s = 0; s < stays.size(); ++s) {
      largest[stays[s].tier] = std::max(largest[stays[s].tier], size(key));
      if (s + 1 < stays.size() && !stays[s].ends && !stays[s + 1].begins &&
          stays[s].tier == stays[s + 1].tier && between(key, s) != stays[s].tier) {
        gaps.insert({stays[s + 1].first - stays[s].last, key, stays[s].last});
      }
    }
  }
  for (const Gap& gap : gaps) {
    const std::vector<Stay>& stays = table_.stays().at(gap.key);
    const auto before = std::ranges::find(stays, gap.first, &Stay::last);
    const int begin = before->last + 1, end = (before + 1)->first;
    const Tier tier = before->tier;
    if (!rooms_.fits(tier, begin, end, size(gap.key) + spare * largest[tier])) {
      continue;
    }
    rooms_.hold(tier, left_by(tier, begin), end, size(gap.key));
    if (!lasts(gap.key)) {
      const Tier waits = between(gap.key, static_cast<std::size_t>(before - stays.begin()));
      rooms_.hold(waits, begin, left_by(waits, end), -size(gap.key));
    }
    table_.join(gap.key, static_cast<std::size_t>(before - stays.begin()));
  }
}

namespace {

Instruction move_of(Op op, PackKey key, Tier source, Tier tier) {
  return {.op = op,
          .block = key.block,
          .micro_batch = key.micro_batch,
          .cls = key.cls,
          .tier = tier,
          .source = source};
}

}  // namespace

/// Whether what was just written in one tier of memory goes on to another without a way home, and
/// from there home later. Takes the room for it.
bool TransferList::hands_over(PackKey key, const std::vector<Stay>& stays, std::size_t s) {
  if (s + 1 >= stays.size() || !stays[s].written) {
    return false;
  }
  const Stay &stay = stays[s], &next = stays[s + 1];
  const bool elsewhere = stay.tier != home(key) && next.tier != home(key) &&
                         stay.tier != next.tier && home(key).kind == TierKind::nvme;
  if (!elsewhere || next.begins || next.first != stay.last + 1) {
    return false;
  }
  const int begin = left_by(stay.tier, stay.last + 1), end = left_by(stay.tier, next.first + 1);
  if (!rooms_.fits(stay.tier, begin, end, size(key))) {
    return false;
  }
  rooms_.hold(stay.tier, begin, end, size(key));
  return true;
}

/// From home and back around every stay elsewhere.
void TransferList::add_lasting(PackKey key, const std::vector<Stay>& stays) {
  const Tier at_home = home(key);
  const bool loops = base_.kind == ProgramKind::train;
  int free_from = loops ? stays.back().last + 1 - count_ : 0;  // the home's bytes are the latest
  bool handed = false;
  for (std::size_t s = 0; s < stays.size(); ++s) {
    const Stay& stay = stays[s];
    if (stay.tier == at_home) {
      free_from = stay.last + 1;
      continue;
    }
    const bool from_before = std::exchange(handed, hands_over(key, stays, s));
    const int next = s + 1 < stays.size() ? stays[s + 1].first
                     : loops              ? stays.front().first + count_
                                          : count_ - 1;
    const bool conditional = stay.when != When::always;
    // Only `skipped` is the opposite of a condition that can be said.
    const int from =
        conditional && stay.when != When::applied ? std::max(free_from, decide_ + 1) : free_from;
    if (!stay.begins) {
      const Tier source = from_before ? stays[s - 1].tier : at_home;
      Transfer fetch{.move = move_of(Op::fetch, key, source, stay.tier),
                     .size_bytes = size(key),
                     .start = stay.first,
                     .due = stay.first,
                     .earliest = from_before ? stay.first : from,
                     .latest = stay.first};
      fetch.move.when = stay.when;
      transfers_.push_back(fetch);
    }
    const int leaves = handed ? next + 1 : stay.last + 1;
    const bool clean = handed || !(stay.written || from_before);
    Transfer evict{.move = move_of(Op::evict, key, stay.tier, at_home),
                   .size_bytes = size(key),
                   .start = leaves,
                   .due = leaves,
                   .earliest = leaves,
                   .latest = clean ? leaves : next};
    evict.move.when = stay.when;
    evict.move.clean = clean;
    transfers_.push_back(evict);
    free_from = stay.last + 1;
  }
}

/// From stay to stay, and in between where the placement says.
void TransferList::add_passing(PackKey key, const std::vector<Stay>& stays) {
  for (std::size_t s = 0; s + 1 < stays.size(); ++s) {
    const Stay &stay = stays[s], &next = stays[s + 1];
    if (stay.ends) {
      continue;  // it begins anew
    }
    const Tier waits = between(key, s);
    if (waits != stay.tier) {
      transfers_.push_back({.move = move_of(Op::save, key, stay.tier, waits),
                            .size_bytes = size(key),
                            .start = stay.last + 1,
                            .due = stay.last + 1,
                            .earliest = stay.last + 1,
                            .latest = next.first});
    }
    if (waits != next.tier) {
      transfers_.push_back({.move = move_of(Op::restore, key, waits, next.tier),
                            .size_bytes = size(key),
                            .start = next.first,
                            .due = next.first,
                            .earliest = stay.last + 1,
                            .latest = next.first});
    }
  }
}

}  // namespace strata::offload
