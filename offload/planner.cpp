#include "offload/planner.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::offload {
namespace {

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::int64_t kPageBytes = 4096;

Phase phase_of(const Program& program, const Instruction& i, Phase before) {
  switch (program.kind) {
    case ProgramKind::snapshot:
      return Phase::snapshot;
    case ProgramKind::evaluate:
    case ProgramKind::inference:
      return Phase::evaluation;
    case ProgramKind::train:
      break;
  }
  switch (i.op) {
    case Op::begin:
    case Op::forward:
      return Phase::forward;
    case Op::recompute:
    case Op::backward:
    case Op::reduce:
    case Op::norm:
      return Phase::backward;
    case Op::decide:
    case Op::stats:
    case Op::update:
    case Op::commit:
    case Op::discard:
    case Op::publish:
    case Op::end:
      return Phase::update;
    default:
      return before;  // moves bytes for what is around it
  }
}

/// When each pack's bytes matter, over all programs one after the other and all outcomes of
/// `decide`.
class Timeline {
 public:
  void add(const Program& program) {
    for (const PackKey key : program.residents) {
      residents_.insert(key);
    }
    for (const Outcome outcome : {Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip}) {
      follow(program, outcome);
    }
    now_ += static_cast<std::int64_t>(program.step.size());
    Phase phase = Phase::forward;
    for (const Instruction& i : program.step) {
      phase = phase_of(program, i, phase);
      phases_.push_back(phase);
    }
  }

  std::map<PackKey, std::vector<Interval>> finish() {
    for (const PackKey key : residents_) {
      live_[key] = {{0, now_}};
    }
    return std::move(live_);
  }
  std::int64_t events() const { return now_; }
  bool is_resident(PackKey key) const { return residents_.contains(key); }
  const std::vector<Phase>& phases() const { return phases_; }  // by event

 private:
  void follow(const Program& program, Outcome outcome) {
    std::map<PackKey, std::int64_t> since;
    bool decided = false;
    for (std::size_t k = 0; k < program.step.size(); ++k) {
      const Instruction& i = program.step[k];
      if (decided && !runs(i.when, outcome)) {
        continue;
      }
      const Effects e = effects(program, i, decided);
      const std::int64_t at = now_ + static_cast<std::int64_t>(k);
      for (const PackKey key : e.creates) {
        since[key] = at;
      }
      for (const PackKey key : e.ends) {
        if (const auto it = since.find(key); it != since.end()) {
          note(key, {it->second, at + 1});
          since.erase(it);
        }
      }
      decided = decided || i.op == Op::decide;
    }
  }

  void note(PackKey key, Interval interval) {
    auto& intervals = live_[key];
    const bool known = std::any_of(intervals.begin(), intervals.end(), [&](const Interval& other) {
      return other.begin == interval.begin && other.end == interval.end;
    });
    if (!known) {
      intervals.push_back(interval);
    }
  }

  std::set<PackKey> residents_;
  std::map<PackKey, std::vector<Interval>> live_;
  std::vector<Phase> phases_;
  std::int64_t now_ = 0;
};

/// Bytes alive at each event; a pack's intervals under different outcomes may overlap and count
/// once.
class Profile {
 public:
  explicit Profile(std::int64_t events) : bytes_(static_cast<std::size_t>(events), 0) {}
  void add(const std::vector<Interval>& intervals, std::int64_t size_bytes) {
    std::vector<Interval> sorted = intervals;
    std::sort(sorted.begin(), sorted.end(), [](const Interval& a, const Interval& b) {
      return a.begin < b.begin;
    });
    std::int64_t done = 0;
    for (const Interval& i : sorted) {
      for (std::int64_t at = std::max(i.begin, done); at < i.end; ++at) {
        bytes_[static_cast<std::size_t>(at)] += size_bytes;
      }
      done = std::max(done, i.end);
    }
  }
  std::int64_t at(std::size_t event) const { return bytes_[event]; }
  std::int64_t peak() const {
    return bytes_.empty() ? 0 : *std::max_element(bytes_.begin(), bytes_.end());
  }

 private:
  std::vector<std::int64_t> bytes_;
};

std::map<Phase, PhasePlan> phase_peaks(const std::vector<Phase>& phase_at,
                                       const Profile& total,
                                       const std::map<std::string, Profile>& labels) {
  std::map<Phase, std::size_t> fullest;
  for (std::size_t event = 0; event < phase_at.size(); ++event) {
    std::size_t& best = fullest.try_emplace(phase_at[event], event).first->second;
    best = total.at(event) > total.at(best) ? event : best;
  }
  std::map<Phase, PhasePlan> phases;
  for (const auto& [phase, event] : fullest) {
    PhasePlan& planned = phases[phase];
    planned.peak_bytes = total.at(event);
    for (const auto& [label, profile] : labels) {
      if (profile.at(event) > 0) {
        planned.labels[label] = profile.at(event);
      }
    }
  }
  return phases;
}

}  // namespace

std::string_view to_string(Phase phase) {
  constexpr std::string_view kNames[] = {"forward", "backward", "update", "snapshot", "evaluation"};
  return kNames[static_cast<std::size_t>(phase)];
}

Plan make_plan(std::span<const Program> programs, const PackSizes& sizes) {
  Timeline timeline;
  for (const Program& program : programs) {
    timeline.add(program);
  }
  const std::int64_t events = timeline.events();
  const auto live = timeline.finish();
  Plan plan;
  std::vector<Lifetime> lifetimes;
  std::int64_t resident_bytes = 0;
  Profile total(events);
  std::map<std::string, Profile> labels;
  for (const auto& [key, intervals] : live) {
    const auto size = sizes.find(key);
    if (size == sizes.end()) {
      throw Error(Errc::internal, "planner: nobody declared the size of " + to_string(key));
    }
    plan.sizes[key] = size->second;
    if (timeline.is_resident(key)) {
      plan.offset[key] = resident_bytes;
      resident_bytes += (size->second + kPageBytes - 1) / kPageBytes * kPageBytes;
    } else {
      lifetimes.push_back({size->second, intervals});
    }
    total.add(intervals, size->second);
    labels.try_emplace(std::string(to_string(key.cls)), events)
        .first->second.add(intervals, size->second);
  }
  const Offsets offsets = assign_offsets(lifetimes, kPageBytes);
  std::size_t index = 0;
  for (const auto& [key, intervals] : live) {
    if (!timeline.is_resident(key)) {
      plan.offset[key] = resident_bytes + offsets.at[index++];
    }
  }
  TierPlan& device = plan.tiers[kDevice];
  device.peak_bytes = total.peak();
  device.arena_bytes = resident_bytes + offsets.total_bytes;
  for (const auto& [label, profile] : labels) {
    device.labels[label] = profile.peak();
  }
  device.phases = phase_peaks(timeline.phases(), total, labels);
  return plan;
}

void cover(std::map<Tier, TierPlan>& tiers, const std::map<Tier, TierPlan>& others) {
  const auto raise = [](auto& to, const auto& by) {
    for (const auto& [label, bytes] : by) {
      to[label] = std::max(to[label], bytes);
    }
  };
  for (const auto& [tier, other] : others) {
    TierPlan& plan = tiers[tier];
    plan.peak_bytes = std::max(plan.peak_bytes, other.peak_bytes);
    plan.arena_bytes = std::max(plan.arena_bytes, other.arena_bytes);
    raise(plan.labels, other.labels);
    for (const auto& [phase, theirs] : other.phases) {
      PhasePlan& ours = plan.phases[phase];
      if (theirs.peak_bytes > ours.peak_bytes) {
        ours = theirs;
      }
    }
  }
}

std::string bytes_text(std::int64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} bytes", bytes)
                   : fmt::format("{:.{}f} {}", value, unit >= 3 ? 2 : 1, kUnits[unit]);
}

std::optional<std::string> misfit(const Plan& plan, const Budgets& budgets) {
  for (const auto& [tier, planned] : plan.tiers) {
    const auto budget = budgets.find(tier);
    const std::int64_t allowed = budget == budgets.end() ? 0 : budget->second;
    if (planned.arena_bytes <= allowed) {
      continue;
    }
    const auto largest = std::max_element(
        planned.labels.begin(), planned.labels.end(), [](const auto& a, const auto& b) {
          return a.second < b.second;
        });
    return fmt::format(
        "plan: tier {} needs {}, its budget is {}: {} are missing; the largest part is {} with {}",
        to_string(tier),
        bytes_text(planned.arena_bytes),
        bytes_text(allowed),
        bytes_text(planned.arena_bytes - allowed),
        largest->first,
        bytes_text(largest->second));
  }
  return std::nullopt;
}

void require_fit(const Plan& plan, const Budgets& budgets) {
  if (const auto wrong = misfit(plan, budgets)) {
    throw Error(Errc::infeasible,
                *wrong +
                    "; raise memory.device, or lower train.micro_batch, train.seq_len or the "
                    "model");
  }
}

}  // namespace strata::offload
