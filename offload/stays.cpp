#include "offload/stays.h"

#include <algorithm>
#include <optional>
#include <set>

#include "core/error.h"

namespace strata::offload {
namespace {

/// Instructions of a block's update, which run where its state is brought.
bool belongs_to_update(Op op) {
  return op == Op::stats || op == Op::update || op == Op::commit || op == Op::discard ||
         op == Op::publish || op == Op::load || op == Op::snapshot;
}

bool contains(const std::vector<PackKey>& set, PackKey key) {
  return std::find(set.begin(), set.end(), key) != set.end();
}

/// Where both generations of a block wait, if that is one tier: the next one becomes the current
/// one there.
std::optional<Tier> tier_of_generations(const Placement& placement, int block) {
  const auto weights = placement.homes.find({PackClass::weights, block});
  const auto state = placement.homes.find({PackClass::state, block});
  if (weights == placement.homes.end() || state == placement.homes.end() ||
      weights->second != state->second) {
    return std::nullopt;
  }
  for (const PackClass next : {PackClass::weights_next, PackClass::state_next}) {
    const auto waits = placement.waits_in.find({next, block});
    if (waits == placement.waits_in.end() || waits->second != weights->second) {
      return std::nullopt;
    }
  }
  return weights->second;
}

/// The condition of both; of two that differ none can be said.
When common(When a, When b) {
  return a == b ? a : When::always;
}

}  // namespace

StayTable::StayTable(const Program& program, const Placement& placement)
    : placement_(placement), framed_(program) {
  std::set<Tier> used;
  for (Instruction& i : framed_.step) {
    const auto where = placement.update_in.find(i.block);
    if (const auto both = tier_of_generations(placement, i.block);
        both && (i.op == Op::commit || i.op == Op::discard)) {
      i.tier = *both;
    } else if (belongs_to_update(i.op) && where != placement.update_in.end()) {
      i.tier = where->second;
      used.insert(i.tier);
    }
  }
  std::erase_if(framed_.residents, [&](PackKey key) {
    const auto home = placement.homes.find(key);
    if (home != placement.homes.end()) {
      framed_.homes.push_back({key, home->second});
    }
    return home != placement.homes.end();
  });
  for (const Tier tier : used) {  // instructions there need scratch of their own
    if (tier != Tier()) {
      framed_.homes.push_back({{PackClass::workspace}, tier});
    }
  }
  std::ranges::sort(framed_.homes);
  bool decided = false;
  for (std::size_t k = 0; k < framed_.step.size(); ++k) {
    add_uses(static_cast<int>(k), effects(framed_, framed_.step[k], decided));
    decided = decided || framed_.step[k].op == Op::decide;
  }
  std::erase_if(stays_, [&](const auto& entry) {
    const auto& [key, stays] = entry;
    const Tier rests = contains(framed_.residents, key) ? Tier() : stays.front().tier;
    return !resting_place(key) &&
           std::ranges::all_of(stays, [&](const Stay& stay) { return stay.tier == rests; });
  });
}

std::optional<Tier> StayTable::resting_place(PackKey key) const {
  if (const auto home = placement_.homes.find(key); home != placement_.homes.end()) {
    return home->second;
  }
  const auto waits = placement_.waits_in.find(key);
  return waits == placement_.waits_in.end() ? std::nullopt : std::optional(waits->second);
}

Tier StayTable::between(PackKey key, const Stay& before, const Stay& after) const {
  if (const auto place = resting_place(key)) {
    return *place;
  }
  const bool lasts = contains(framed_.residents, key);
  return lasts ? Tier() : before.tier == after.tier ? before.tier : after.tier;
}

void StayTable::add_uses(int index, const Effects& e) {
  for (const PackKey key : e.needs()) {
    if (key.cls != PackClass::workspace) {
      add(key,
          index,
          contains(e.creates, key),
          contains(e.creates, key) || contains(e.writes, key) || contains(e.adds_to, key),
          contains(e.ends, key));
    }
  }
  for (const PackKey key : e.ends) {
    if (!contains(e.needs(), key) && key.cls != PackClass::workspace) {
      add(key, index, false, false, true);
    }
  }
}

/// Uses one after the other, with nothing of another block between them, are one stay; what ends
/// and begins anew has two.
void StayTable::add(PackKey key, int index, bool creates, bool writes, bool ends) {
  std::vector<Stay>& stays = stays_[key];
  Instruction& i = framed_.step[static_cast<std::size_t>(index)];
  if (i.op == Op::drop && !stays.empty()) {  // wherever it is
    i.tier = stays.back().tier;
  }
  const Tier tier = i.tier;
  const auto idle = [](const Instruction& between) {
    return between.op == Op::drop || between.op == Op::begin || between.op == Op::merge;
  };
  const bool follows =  // what is made anew is another stay
      !stays.empty() && stays.back().tier == tier && !stays.back().ends && !creates &&
      (i.op == Op::drop || std::all_of(framed_.step.begin() + stays.back().last + 1,
                                       framed_.step.begin() + index,
                                       [&](const Instruction& between) {
                                         return idle(between) || between.block == i.block;
                                       }));
  if (!follows) {
    stays.push_back({.tier = tier,
                     .first = index,
                     .last = index,
                     .begins = creates,
                     .ends = ends,
                     .written = writes,
                     .when = i.when});
    return;
  }
  Stay& stay = stays.back();
  stay.last = index;
  stay.ends = stay.ends || ends;
  stay.written = stay.written || writes;
  stay.when = common(stay.when, i.when);
}

void StayTable::join(PackKey key, std::size_t first) {
  std::vector<Stay>& stays = stays_.at(key);
  STRATA_ASSERT(first + 1 < stays.size() && stays[first].tier == stays[first + 1].tier);
  Stay& stay = stays[first];
  const Stay& next = stays[first + 1];
  stay.last = next.last;
  stay.ends = stay.ends || next.ends;
  stay.written = stay.written || next.written;
  stay.when = common(stay.when, next.when);
  stays.erase(stays.begin() + static_cast<std::ptrdiff_t>(first) + 1);
}

}  // namespace strata::offload
