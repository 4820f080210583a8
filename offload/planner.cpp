#include "offload/planner.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "core/error.h"
#include "core/offsets.h"

namespace strata::offload {
namespace {

constexpr std::int64_t kPageBytes = 4096;

Phase phase_of(const Program& program, const Instruction& i, Phase before) {
  switch (program.kind) {
    case ProgramKind::snapshot:
    case ProgramKind::load:
      return Phase::snapshot;
    case ProgramKind::flush:
      return Phase::update;
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

/// Bytes with one address: a pack's own place in a tier, or what one move of a program brings.
struct Slot {
  Replica replica;
  int program = -1, by = -1;  // -1: the pack's own
  friend auto operator<=>(const Slot&, const Slot&) = default;
};

/// When the bytes of each slot matter, over all programs one after the other and all outcomes of
/// `decide`.
class Timeline {
 public:
  void add(const Program& program, int index) {
    for (const PackKey key : program.residents) {
      lasting_.insert({key});
    }
    lasting_.insert(program.homes.begin(), program.homes.end());
    for (const Outcomes outcomes : possible_outcomes({&program, 1})) {
      for (const Holding& h : holdings(program, outcomes)) {
        note({h.replica, h.by < 0 ? -1 : index, h.by}, {now_ + h.begin, now_ + h.end});
      }
    }
    now_ += static_cast<std::int64_t>(program.step.size());
    Phase phase = Phase::forward;
    for (const Instruction& i : program.step) {
      phase = phase_of(program, i, phase);
      phases_.push_back(phase);
    }
  }

  std::map<Slot, std::vector<Interval>> finish() {
    for (const Replica& replica : lasting_) {
      live_[{replica}] = {{0, now_}};
    }
    return std::move(live_);
  }
  std::int64_t events() const { return now_; }
  bool lasts(const Slot& slot) const { return slot.by < 0 && lasting_.contains(slot.replica); }
  const std::vector<Phase>& phases() const { return phases_; }  // by event

 private:
  void note(const Slot& slot, Interval interval) {
    auto& intervals = live_[slot];
    const bool known = std::any_of(intervals.begin(), intervals.end(), [&](const Interval& other) {
      return other.begin == interval.begin && other.end == interval.end;
    });
    if (!known) {
      intervals.push_back(interval);
    }
  }

  std::set<Replica> lasting_;
  std::map<Slot, std::vector<Interval>> live_;
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

namespace {

std::int64_t pages(std::int64_t size_bytes) {
  return (size_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

using Live = std::map<Slot, std::vector<Interval>>;

/// Peaks of one tier, by label and phase. A replica counts once, whoever brought it.
TierPlan count_bytes(const Live& live,
                     Tier tier,
                     const PackSizes& sizes,
                     const Timeline& timeline) {
  std::map<PackKey, std::vector<Interval>> of_tier;
  for (const auto& [slot, intervals] : live) {
    if (slot.replica.tier == tier) {
      auto& all = of_tier[slot.replica.key];
      all.insert(all.end(), intervals.begin(), intervals.end());
    }
  }
  Profile total(timeline.events());
  std::map<std::string, Profile> labels;
  for (const auto& [key, intervals] : of_tier) {
    total.add(intervals, sizes.at(key));
    labels.try_emplace(std::string(to_string(key.cls)), timeline.events())
        .first->second.add(intervals, sizes.at(key));
  }
  TierPlan plan;
  plan.peak_bytes = total.peak();
  for (const auto& [label, profile] : labels) {
    plan.labels[label] = profile.peak();
  }
  plan.phases = phase_peaks(timeline.phases(), total, labels);
  return plan;
}

/// Offsets of one tier: what lasts, then what comes and goes.
class TierPlacement {
 public:
  TierPlacement(Tier tier, const Live& live, const PackSizes& sizes, const Timeline& timeline) {
    std::vector<Lifetime> lifetimes;
    std::vector<Slot> shared;
    for (const auto& [slot, intervals] : live) {
      if (slot.replica.tier != tier) {
        continue;
      }
      const std::int64_t size = sizes.at(slot.replica.key);
      if (tier.kind == TierKind::nvme || timeline.lasts(slot)) {
        offset_[slot] = bytes_;
        bytes_ += pages(size);
      } else {
        lifetimes.push_back({size, intervals});
        shared.push_back(slot);
      }
    }
    const Offsets offsets = assign_offsets(lifetimes, kPageBytes);
    for (std::size_t k = 0; k < shared.size(); ++k) {
      offset_[shared[k]] = bytes_ + offsets.at[k];
    }
    bytes_ += offsets.total_bytes;
  }
  const std::map<Slot, std::int64_t>& offsets() const { return offset_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::map<Slot, std::int64_t> offset_;
  std::int64_t bytes_ = 0;
};

}  // namespace

Plan make_plan(std::span<Program* const> programs, const PackSizes& sizes) {
  Timeline timeline;
  for (std::size_t k = 0; k < programs.size(); ++k) {
    timeline.add(*programs[k], static_cast<int>(k));
  }
  const Live live = timeline.finish();
  Plan plan;
  std::set<Tier> tiers{Tier()};
  for (const auto& [slot, intervals] : live) {
    const PackKey key = slot.replica.key;
    const auto size = sizes.find(key);
    if (size == sizes.end()) {
      throw Error(Errc::internal, "planner: nobody declared the size of " + to_string(key));
    }
    plan.sizes[key] = size->second;
    tiers.insert(slot.replica.tier);
  }
  for (const Tier tier : tiers) {
    const TierPlacement placement(tier, live, sizes, timeline);
    for (const auto& [slot, offset] : placement.offsets()) {
      if (slot.by < 0) {
        plan.offset[slot.replica] = offset;
      } else {
        plan.offset.try_emplace(slot.replica, -1);
        programs[static_cast<std::size_t>(slot.program)]
            ->step[static_cast<std::size_t>(slot.by)]
            .offset = offset;
      }
    }
    TierPlan& planned = plan.tiers[tier];
    planned = count_bytes(live, tier, sizes, timeline);
    planned.arena_bytes = placement.bytes();
  }
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

std::string to_string(const Misfit& m) {
  if (m.of == Misfit::Of::writes) {
    return fmt::format(
        "plan: a step writes {} to {}, memory.nvme_writes allows {}: {} too many; {}",
        bytes_text(m.needed_bytes),
        to_string(m.tier),
        bytes_text(m.budget_bytes),
        bytes_text(m.missing_bytes()),
        m.detail);
  }
  return fmt::format("plan: tier {} needs {}, its budget is {}: {} are missing; {}",
                     to_string(m.tier),
                     bytes_text(m.needed_bytes),
                     bytes_text(m.budget_bytes),
                     bytes_text(m.missing_bytes()),
                     m.detail);
}

Infeasible::Infeasible(Misfit misfit, const std::string& advice)
    : Error(Errc::infeasible, to_string(misfit) + advice), misfit_(std::move(misfit)) {}

std::optional<Misfit> misfit(const Plan& plan, const Budgets& budgets) {
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
    return Misfit{
        tier,
        planned.arena_bytes,
        allowed,
        fmt::format("the largest part is {} with {}", largest->first, bytes_text(largest->second))};
  }
  return std::nullopt;
}

void require_fit(const Plan& plan, const Budgets& budgets) {
  if (auto wrong = misfit(plan, budgets)) {
    throw Infeasible(std::move(*wrong),
                     "; raise memory.device, or lower train.micro_batch, train.seq_len or the "
                     "model");
  }
}

}  // namespace strata::offload
