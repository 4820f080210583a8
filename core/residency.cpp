#include "core/residency.h"

#include <algorithm>

#include "core/error.h"

namespace strata {
namespace {

/// Scratch holds nothing that could be outdated.
bool has_contents(const Replica& replica) {
  return replica.key.cls != PackClass::workspace;
}

}  // namespace

void Residency::place(const Replica& replica) {
  enter(replica, version_of(replica.key));
}

Residency::State* Residency::find(const Replica& replica) {
  const auto at = std::ranges::lower_bound(states_, replica, {}, &State::replica);
  return at != states_.end() && at->replica == replica && at->present ? &*at : nullptr;
}

const Residency::State* Residency::find(const Replica& replica) const {
  const auto at = std::ranges::lower_bound(states_, replica, {}, &State::replica);
  return at != states_.end() && at->replica == replica && at->present ? &*at : nullptr;
}

Residency::State& Residency::enter(const Replica& replica, long version) {
  auto at = std::ranges::lower_bound(states_, replica, {}, &State::replica);
  if (at == states_.end() || at->replica != replica) {
    at = states_.insert(at, State());
  }
  *at = {.replica = replica, .present = true, .version = version};
  return *at;
}

long& Residency::version_of(PackKey key) {
  using Version = std::pair<PackKey, long>;
  auto at = std::ranges::lower_bound(versions_, key, {}, &Version::first);
  if (at == versions_.end() || at->first != key) {
    at = versions_.insert(at, {key, 0});
  }
  return at->second;
}

std::vector<Replica> Residency::replicas() const {
  std::vector<Replica> all;
  for (const State& state : states_) {
    if (state.present) {
      all.push_back(state.replica);
    }
  }
  return all;
}

bool Residency::latest(const State& state) const {
  using Version = std::pair<PackKey, long>;
  return !has_contents(state.replica) ||
         std::ranges::lower_bound(versions_, state.replica.key, {}, &Version::first)->second ==
             state.version;
}

bool Residency::settled(const Replica& replica) const {
  const State* const state = find(replica);
  return state != nullptr && !state->filling && !state->leaving && latest(*state);
}

bool Residency::elsewhere(const Replica& replica) const {
  return std::ranges::any_of(states_, [&](const State& other) {
    return other.replica.key == replica.key && other.replica != replica && settled(other.replica);
  });
}

std::string Residency::usable(const Replica& replica) const {
  const State* const state = find(replica);
  if (state == nullptr) {
    return "uses " + to_string(replica) + " which is not there";
  }
  if (state->filling) {
    return "uses " + to_string(replica) + " which is on its way";
  }
  if (state->leaving) {
    return "uses " + to_string(replica) + " which is being moved away";
  }
  return latest(*state) ? "" : "uses " + to_string(replica) + " which is outdated";
}

std::string Residency::create(const Replica& replica) {
  if (exists(replica)) {
    return "creates " + to_string(replica) + " which exists";
  }
  enter(replica, ++version_of(replica.key));
  return {};
}

std::string Residency::destroy(const Replica& replica) {
  State* const state = find(replica);
  if (state == nullptr) {
    return "uses " + to_string(replica) + " which is not there";
  }
  if (!state->idle() || state->copied > 0) {
    return "ends " + to_string(replica) + " which is in use";
  }
  const bool only = std::ranges::none_of(states_, [&](const State& other) {
    return other.present && other.replica.key == replica.key && other.replica != replica;
  });
  if (!only && has_contents(replica) && latest(*state) && !elsewhere(replica)) {
    return "ends " + to_string(replica) + " while others are outdated";
  }
  state->present = false;
  return {};
}

std::string Residency::begin_use(const Replica& replica, Access access) {
  if (std::string wrong = usable(replica); !wrong.empty()) {
    return wrong;
  }
  State& state = *find(replica);
  if (state.writers > 0 || (access == Access::write && (state.readers > 0 || state.copied > 0))) {
    return "uses " + to_string(replica) + " which is in use";
  }
  if (access == Access::read) {
    ++state.readers;
    return {};
  }
  ++state.writers;
  state.version = ++version_of(replica.key);
  return {};
}

void Residency::end_use(const Replica& replica, Access access) noexcept {
  if (State* const state = find(replica); state != nullptr) {
    --(access == Access::read ? state->readers : state->writers);
  }
}

std::string Residency::start(const Instruction& move) {
  const Replica from{move.key(), move.source}, to{move.key(), move.tier};
  if (std::string wrong = usable(from); !wrong.empty()) {
    return wrong;
  }
  const long version = find(from)->version;
  const State& before = *find(from);
  const bool takes = move.op != Op::fetch;
  if (from == to || before.writers > 0 || (takes && (!before.idle() || before.copied > 0))) {
    return "moves " + to_string(from) + " which is in use";
  }
  if (move.op != Op::evict) {
    if (exists(to)) {
      return "creates " + to_string(to) + " which exists";
    }
    enter(to, version).filling = true;  // lines may have moved
  } else if (move.clean) {
    if (!elsewhere(from)) {
      return "ends " + to_string(from) + " as if its home had the same bytes";
    }
  } else {
    State* const home = find(to);
    if (home == nullptr || !home->idle() || home->copied > 0) {
      return "evicts " + to_string(from) + " to where it has no home, or one in use";
    }
    home->filling = true;
  }
  State& source = *find(from);
  takes ? void(source.leaving = true) : void(++source.copied);
  return {};
}

std::string Residency::finish(const Instruction& move) {
  const Replica from{move.key(), move.source}, to{move.key(), move.tier};
  State* const source = find(from);
  State* const target = find(to);
  const bool takes = move.op != Op::fetch;
  const bool copies = !(move.op == Op::evict && move.clean);
  if (source == nullptr || (takes ? !source->leaving : source->copied == 0) ||
      (copies && (target == nullptr || !target->filling))) {
    return "completes a move of " + to_string(from) + " that is not under way";
  }
  if (copies) {
    target->filling = false;
    target->version = source->version;
  }
  takes ? void(source->present = false) : void(--source->copied);
  return {};
}

std::string Residency::violation() const {
  for (const State& state : states_) {
    const std::string name = to_string(state.replica);
    if (!state.present) {
      continue;
    }
    if (state.writers > 1 || (state.writers == 1 && state.readers > 0)) {
      return name + " has a writer and others";
    }
    if (state.writers == 1 && (state.filling || state.leaving || state.copied > 0)) {
      return name + " is written during a transfer";
    }
    if (state.readers < 0 || state.writers < 0 || state.copied < 0) {
      return name + " was given back twice";
    }
    const bool known = std::ranges::any_of(states_, [&](const State& other) {
      return other.present && other.replica.key == state.replica.key && !other.filling &&
             latest(other);
    });
    if (!known && has_contents(state.replica)) {
      return "no replica of " + to_string(state.replica.key) + " has its latest bytes";
    }
  }
  return {};
}

}  // namespace strata
