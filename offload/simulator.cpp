#include "offload/simulator.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <queue>
#include <tuple>

#include "core/error.h"
#include "offload/issue_order.h"
#include "offload/shared_capacity.h"

namespace strata::offload {

std::string to_string(const Link& link) {
  return strata::to_string(link.from) + " -> " + strata::to_string(link.to);
}

double Timing::transfer_seconds(const Instruction& move, std::int64_t size_bytes) const {
  if (move.clean) {
    return 0;
  }
  const auto rate = bytes_per_second.find({move.source, move.tier});
  if (rate == bytes_per_second.end()) {
    throw Error(Errc::internal,
                "simulator: nobody knows the rate of " + to_string(Link{move.source, move.tier}));
  }
  return latency_seconds + static_cast<double>(size_bytes) / rate->second;
}

double Timing::crowded_seconds(const Instruction& move, std::int64_t size_bytes) const {
  double seconds = transfer_seconds(move, size_bytes);
  const Link link{move.source, move.tier};
  for (const SharedLinks& s : shared) {
    if (!move.clean && std::ranges::find(s.links, link) != s.links.end()) {
      seconds = std::max(
          seconds, latency_seconds + 2 * static_cast<double>(size_bytes) / s.bytes_per_second);
    }
  }
  return seconds;
}

std::vector<double> compute_alone(const Program& program, const Timing& timing) {
  std::vector<double> at;
  double device = 0, host = 0;
  for (const Instruction& i : program.step) {
    const double seconds = timing.compute_seconds(i);
    if (timing.beside_device(i)) {
      host = std::max(host, device);  // what it works on comes from the device
      at.push_back(host);
      host += seconds;
    } else {
      device = i.op == Op::end ? std::max(host, device) : device;
      at.push_back(device);
      device += seconds;
    }
  }
  return at;
}

double Simulation::bound_seconds() const {
  double bound = std::max({compute_seconds - host_seconds, host_seconds, shared_seconds});
  for (const auto& [link, alone] : busy) {
    bound = std::max(bound, alone);
  }
  return bound;
}

std::string Simulation::bound_by() const {
  const double bound = bound_seconds();
  if (compute_seconds - host_seconds == bound) {
    return "compute";
  }
  for (const auto& [link, alone] : busy) {
    if (alone == bound) {
      return to_string(link);
    }
  }
  return host_seconds == bound ? "host cores" : "shared links";
}

double Simulation::stalled_seconds() const {
  return std::accumulate(stalls.begin(), stalls.end(), 0.0);
}

namespace {

/// Work of each instruction, and when it is done. What is before the instruction `first` leads up
/// to the step that is looked at.
class Clockwork {
 public:
  Clockwork(const Program& program,
            std::size_t first,
            const PackSizes& sizes,
            const Timing& timing,
            Outcomes outcomes)
      : program_(program),
        first_(first),
        sizes_(sizes),
        timing_(timing),
        runs_(running(program, outcomes)),
        waits_(timing.host_cores == HostCores::are_device ? in_order(program, runs_)
                                                          : beside_device(program, runs_)),
        seconds_(program.step.size(), 0.0),
        capacity_of_(program.step.size(), -1) {
    s_.at.resize(program.step.size());
  }

  Simulation run();

 private:
  void count(std::size_t k) {
    const Instruction& i = program_.step[k];
    if (!runs_[k]) {
      return;
    }
    const bool counts = k >= first_;
    if (!is_move(i.op)) {
      seconds_[k] = timing_.compute_seconds(i);
      s_.compute_seconds += counts ? seconds_[k] : 0;
      s_.host_seconds += counts && timing_.beside_device(i) ? seconds_[k] : 0;
      return;
    }
    const Link link{i.source, i.tier};
    const std::int64_t bytes = i.clean ? 0 : sizes_.at(i.key());
    seconds_[k] = timing_.transfer_seconds(i, bytes);
    s_.busy[link] += counts ? seconds_[k] : 0;
    s_.moved_bytes[link] += counts ? bytes : 0;
    for (std::size_t c = 0; c < timing_.shared.size() && bytes > 0; ++c) {
      if (std::ranges::find(timing_.shared[c].links, link) != timing_.shared[c].links.end()) {
        capacity_of_[k] = static_cast<int>(c);
      }
    }
  }
  double begin_of(std::size_t k) const {
    double begin = 0;
    for (const int before : waits_.of(k)) {
      begin = std::max(begin, s_.at[static_cast<std::size_t>(before)].end);
    }
    return begin;
  }
  /// What is waited for comes first in the program too.
  void each_for_itself() {
    for (std::size_t k = 0; k < s_.at.size(); ++k) {
      const double begin = begin_of(k);
      s_.at[k] = {begin, begin + seconds_[k]};
    }
  }
  class Events;
  void note_stalls_in_order();
  void note_stalls_beside();
  void note_stall(std::size_t k, std::size_t move, double seconds);
  void leave_lead();

  const Program& program_;
  const std::size_t first_;
  const PackSizes& sizes_;
  const Timing& timing_;
  const std::vector<bool> runs_;
  const Waits waits_;
  std::vector<double> seconds_;   // alone
  std::vector<int> capacity_of_;  // of transfers that share one: which; else -1
  Simulation s_;
};

/// From event to event: a transfer's end depends on those that start while it runs.
class Clockwork::Events {
 public:
  explicit Events(Clockwork& clockwork)
      : c_(clockwork), open_(clockwork.s_.at.size()), followers_(clockwork.s_.at.size()) {
    for (const SharedLinks& shared : c_.timing_.shared) {
      capacities_.emplace_back(shared.bytes_per_second);
    }
    for (std::size_t k = 0; k < open_.size(); ++k) {
      for (const int before : c_.waits_.of(k)) {
        followers_[static_cast<std::size_t>(before)].push_back(k);
      }
      open_[k] = c_.waits_.of(k).size();
    }
  }
  void run() {
    for (std::size_t k = 0; k < open_.size(); ++k) {
      if (c_.waits_.of(k).empty()) {
        begin(k);
      }
    }
    constexpr double kNever = std::numeric_limits<double>::infinity();
    for (;;) {
      const auto first = std::ranges::min_element(capacities_, {}, &SharedCapacity::next_end);
      const double next = events_.empty() ? kNever : events_.top().time;
      const double ended = first->next_end();
      if (next == kNever && ended == kNever) {
        return;
      }
      if (ended <= next) {
        finish(static_cast<std::size_t>(first->finish_next()), ended);
      } else {
        const Event event = events_.top();
        events_.pop();
        event.enters ? enter(event.index, event.time) : finish(event.index, event.time);
      }
    }
  }

 private:
  struct Event {
    double time;
    std::size_t index;
    bool enters;  // a transfer begins to take its part of a capacity; else it is done
    bool operator>(const Event& other) const {
      return std::tie(time, index) > std::tie(other.time, other.index);
    }
  };

  void begin(std::size_t k) {
    const double now = c_.s_.at[k].begin = c_.begin_of(k);
    const bool shares = c_.capacity_of_[k] >= 0;
    events_.push({now + (shares ? c_.timing_.latency_seconds : c_.seconds_[k]), k, shares});
  }
  void enter(std::size_t k, double now) {
    const Instruction& i = c_.program_.step[k];
    capacities_[static_cast<std::size_t>(c_.capacity_of_[k])].start(
        static_cast<int>(k),
        c_.timing_.bytes_per_second.at({i.source, i.tier}),
        static_cast<double>(c_.sizes_.at(i.key())),
        now);
  }
  void finish(std::size_t k, double now) {
    c_.s_.at[k].end = now;
    for (const std::size_t next : followers_[k]) {
      if (--open_[next] == 0) {
        begin(next);
      }
    }
  }

  Clockwork& c_;
  std::vector<SharedCapacity> capacities_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<std::size_t> open_;  // what is still waited for
  std::vector<std::vector<std::size_t>> followers_;
};

/// All waits of one place in the order are for the transfer that is done last.
void Clockwork::note_stalls_in_order() {
  std::vector<std::vector<std::size_t>> due_at(s_.at.size() + 1);
  double now = 0;
  for (std::size_t k = 0; k <= s_.at.size(); ++k) {
    const double before = now;
    std::optional<std::size_t> last;
    for (const std::size_t move : due_at[k]) {
      if (s_.at[move].end > now) {
        now = s_.at[move].end;
        last = move;
      }
    }
    if (last && (k < s_.at.size() || first_ == 0)) {  // what runs on is of the next step
      note_stall(k, *last, now - before);
    }
    if (k == s_.at.size()) {
      break;
    }
    const Instruction& i = program_.step[k];
    if (is_move(i.op) && runs_[k]) {
      due_at[static_cast<std::size_t>(due(i, static_cast<int>(k)))].push_back(k);
    } else {
      now = s_.at[k].end;
    }
  }
}

/// How much later an instruction begins than its resource was free, if that is due to a transfer.
void Clockwork::note_stalls_beside() {
  double device = 0, host = 0;
  for (std::size_t k = 0; k < s_.at.size(); ++k) {
    const Instruction& i = program_.step[k];
    if (is_move(i.op)) {
      continue;
    }
    double& free = timing_.beside_device(i) ? host : device;
    for (const int before : waits_.of(k)) {
      const auto at = static_cast<std::size_t>(before);
      if (is_move(program_.step[at].op) && s_.at[at].end == s_.at[k].begin &&
          s_.at[k].begin > free) {
        note_stall(k, at, s_.at[k].begin - free);
        break;
      }
    }
    free = s_.at[k].end;
  }
}

void Clockwork::note_stall(std::size_t k, std::size_t move, double seconds) {
  const Instruction& i = program_.step[move];
  s_.stalls[k] = seconds;
  if (k >= first_) {
    s_.stalls_by_cause[{{i.source, i.tier}, i.cls}] += seconds;
  }
}

/// The step alone, from where what leads up to it ends.
void Clockwork::leave_lead() {
  const double begin = s_.at[first_ - 1].end;
  const auto lead = static_cast<std::ptrdiff_t>(first_);
  s_.at.erase(s_.at.begin(), s_.at.begin() + lead);
  s_.stalls.erase(s_.stalls.begin(), s_.stalls.begin() + lead);
  for (Moment& moment : s_.at) {
    moment = {moment.begin - begin, moment.end - begin};
  }
  s_.seconds = s_.at.back().end;
}

Simulation Clockwork::run() {
  for (std::size_t k = 0; k < program_.step.size(); ++k) {
    count(k);
  }
  if (timing_.shared.empty()) {
    each_for_itself();
  } else {
    Events(*this).run();
  }
  for (const Moment& moment : s_.at) {
    s_.seconds = std::max(s_.seconds, moment.end);
  }
  for (const SharedLinks& shared : timing_.shared) {
    s_.shared_seconds = std::max(s_.shared_seconds,
                                 least_seconds(shared, timing_.bytes_per_second, s_.moved_bytes));
  }
  s_.stalls.assign(s_.at.size() + 1, 0);
  timing_.host_cores == HostCores::are_device ? note_stalls_in_order() : note_stalls_beside();
  if (first_ > 0) {
    leave_lead();
  }
  return std::move(s_);
}

/// So many steps, one after the other; absent where nothing runs on from one to the next.
std::optional<Program> repeated(const Program& program, int steps) {
  const int count = static_cast<int>(program.step.size());
  Program all = program;
  all.step.clear();
  bool any = false;
  for (int step = 0; step < steps; ++step) {
    for (int k = 0; k < count; ++k) {
      Instruction i = program.step[static_cast<std::size_t>(k)];
      const bool on = runs_on(i, k);
      any = any || on;
      i.needed_by += i.needed_by >= 0 ? (on ? step + 1 : step) * count : 0;
      i.needed_by = std::min(i.needed_by, steps * count);
      all.step.push_back(i);
    }
  }
  return any ? std::optional(std::move(all)) : std::nullopt;
}

}  // namespace

Simulation simulate(const Program& program,
                    const PackSizes& sizes,
                    const Timing& timing,
                    Outcomes outcomes) {
  // What runs on piles up for some steps where links are the bottleneck; then steps are alike.
  constexpr int kSteps = 4;
  if (const auto steps = repeated(program, kSteps)) {
    const std::size_t first = (kSteps - 1) * program.step.size();
    return Clockwork(*steps, first, sizes, timing, outcomes).run();
  }
  return Clockwork(program, 0, sizes, timing, outcomes).run();
}

}  // namespace strata::offload
