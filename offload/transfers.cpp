#include "offload/transfers.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "offload/transfer_list.h"

namespace strata::offload {
namespace {

/// A program with its transfers, on virtual time.
struct Draft {
  Program program;
  double seconds = 0;          // of its step
  std::vector<double> starts;  // of the instructions that it had before
};

/// Transfers of one list, each started earlier or waited for later than it must be, in several
/// ways.
class Drafts {
 public:
  Drafts(const Program& program,
         const TransferList& list,
         const PackSizes& sizes,
         const Timing& timing)
      : base_(program),
        list_(list),
        sizes_(sizes),
        timing_(timing),
        count_(static_cast<int>(program.step.size())),
        rooms_(list.rooms()),
        transfers_(list.transfers()) {}
  /// The fastest. A full effort tries steps that leave nothing to the next one too.
  Draft best(const Drafting& drafting);

 private:
  static constexpr double kMargin = 0.25;  // of a transfer's time, that it may be late by
  static constexpr double kTrust = 0.7;    // in the last draft's times: with 1 they swing
  static constexpr int kPatience = 2;      // drafts no faster than those before
  static constexpr int kIntoDevice = 2;    // from this rank on, of transfers that start together

  /// Who has room first: what leaves, so that nobody waits for it to be gone, or what comes.
  enum class First : std::uint8_t { departures, arrivals };
  void improve(Draft& best, int rounds, First first);
  Draft draft();
  std::vector<double> stretched_starts() const;
  void spread(const std::vector<double>& at, First first);
  double time_of(const std::vector<double>& at, int instruction) const;
  void delay_departures(const std::vector<double>& at);
  int latest_due(const Transfer& leaving) const;
  void advance_arrivals(const std::vector<double>& at);
  std::map<const Transfer*, double> latest_starts(const std::vector<Transfer*>& by_due,
                                                  const std::vector<double>& at) const;
  int earliest_start(const Transfer& coming, const std::vector<const Transfer*>& leaving) const;
  static std::pair<int, int> rank(const Transfer& t);
  Program write();

  const Program& base_;
  const TransferList& list_;
  const PackSizes& sizes_;
  const Timing& timing_;
  const int count_;
  bool loops_ = false;  // transfers run on into the next step
  Rooms rooms_;
  std::vector<Transfer> transfers_;
  std::vector<int> written_at_;  // where instructions are in the program written last
};

Draft Drafts::best(const Drafting& drafting) {
  constexpr int kRounds = 5;
  const bool full = drafting.effort == Effort::full;
  const bool may_loop = base_.kind == ProgramKind::train && !drafting.apart;
  Draft best = draft();
  for (const First first : {First::departures, First::arrivals}) {
    for (const bool loops : {false, true}) {
      loops_ = loops;
      if (loops ? may_loop : full || !may_loop) {
        improve(best, full ? kRounds : 1, first);
      }
    }
  }
  return best;
}

void Drafts::improve(Draft& best, int rounds, First first) {
  std::vector<double> starts = stretched_starts();
  double before = best.seconds;
  int worse = 0;
  for (int round = 0; round < rounds && worse < kPatience && !transfers_.empty(); ++round) {
    spread(starts, first);
    Draft next = draft();
    for (std::size_t k = 0; k < starts.size(); ++k) {
      starts[k] += kTrust * (next.starts[k] - starts[k]);
    }
    worse = next.seconds >= before * 0.999 ? worse + 1 : 0;
    before = std::min(before, next.seconds);
    if (next.seconds < best.seconds) {
      best = std::move(next);
    }
  }
}

Draft Drafts::draft() {
  Draft d;
  d.program = write();
  const Simulation s = simulate(d.program, sizes_, timing_);
  d.seconds = s.seconds;
  for (const int index : written_at_) {
    d.starts.push_back(s.at[static_cast<std::size_t>(index)].begin);
  }
  return d;
}

/// When each instruction would start if the busiest resource set the pace throughout.
std::vector<double> Drafts::stretched_starts() const {
  std::vector<double> at = compute_alone(base_, timing_);
  std::map<Link, double> busy;
  double bound = at.back();
  for (const Transfer& t : transfers_) {
    double& of_link = busy[{t.move.source, t.move.tier}];
    of_link += timing_.crowded_seconds(t.move, t.size_bytes);
    bound = std::max(bound, of_link);
  }
  const double stretch = at.back() > 0 ? bound / at.back() : 1;
  for (double& start : at) {
    start *= stretch;
  }
  return at;
}

/// Transfers start over from what must be, and then reach out in time as far as is of use.
void Drafts::spread(const std::vector<double>& at, First first) {
  rooms_ = list_.rooms();
  for (Transfer& t : transfers_) {
    (t.brings() ? t.start : t.due) = t.brings() ? t.due : t.start;
  }
  if (first == First::departures) {
    delay_departures(at);
  }
  advance_arrivals(compute_alone(base_, timing_));
  if (first == First::arrivals) {
    delay_departures(at);
  }
}

/// Of the steps before and after too: the program is a loop.
double Drafts::time_of(const std::vector<double>& at, int instruction) const {
  const int steps = instruction < 0 ? -1 : instruction >= count_ ? 1 : 0;
  return at[static_cast<std::size_t>(instruction - steps * count_)] + steps * at.back();
}

/// What brings the same bytes back comes after.
int Drafts::latest_due(const Transfer& leaving) const {
  int latest =
      loops_ ? leaving.latest : std::min(leaving.latest, std::max(leaving.start, count_ - 1));
  for (const Transfer& other : transfers_) {
    if (other.brings() && other.move.key() == leaving.move.key()) {
      const int start = other.due >= leaving.start ? other.start : other.start + count_;
      latest = std::min(latest, std::max(start, leaving.start));
    }
  }
  return latest;
}

/// In the order in which they start: each is waited for where it will be done.
void Drafts::delay_departures(const std::vector<double>& at) {
  std::vector<Transfer*> leaving;
  for (Transfer& t : transfers_) {
    if (!t.brings() && !t.move.clean) {
      leaving.push_back(&t);
    }
  }
  std::ranges::stable_sort(leaving, {}, [](const Transfer* t) { return t->start; });
  std::map<Link, double> free;
  for (Transfer* const t : leaving) {
    double& done = free[{t->move.source, t->move.tier}];
    done = std::max(done, time_of(at, std::min(t->start, count_ - 1))) +
           timing_.crowded_seconds(t->move, t->size_bytes);
    const int latest = latest_due(*t);
    while (t->due < latest && time_of(at, t->due) < done) {
      const Tier source = t->move.source;
      const int held = t->due + (source == Tier() ? 0 : 1);
      const int end = latest < count_ ? std::min(held + 1, count_) : held + 1;
      if (!rooms_.fits(source, held, end, t->size_bytes)) {
        break;
      }
      rooms_.hold(source, held, end, t->size_bytes);
      ++t->due;
    }
  }
}

/// By deadlines, from the end, at which the arrivals of the next step stand in line.
std::map<const Transfer*, double> Drafts::latest_starts(const std::vector<Transfer*>& by_due,
                                                        const std::vector<double>& at) const {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::map<Link, double> next;
  std::map<const Transfer*, double> latest;
  for (int step = loops_ ? 1 : 0; step >= 0; --step) {
    for (auto t = by_due.rbegin(); t != by_due.rend(); ++t) {
      const double seconds = timing_.crowded_seconds((*t)->move, (*t)->size_bytes);
      double& begin = next.try_emplace({(*t)->move.source, (*t)->move.tier}, kNever).first->second;
      begin = std::min(begin, time_of(at, (*t)->due + step * count_)) - seconds;
      latest[*t] = begin - kMargin * seconds;
    }
  }
  return latest;
}

/// What brings bytes comes after what took the same away.
int Drafts::earliest_start(const Transfer& coming,
                           const std::vector<const Transfer*>& leaving) const {
  int earliest = loops_ ? coming.earliest : std::max(coming.earliest, 0);
  // Into the device: last of what starts where it does. Out of it: first.
  const bool strictly = coming.move.tier == Tier() || coming.empties_device();
  for (const Transfer* const other : leaving) {
    const int step = other->start <= coming.due ? 0 : -count_;
    earliest =
        std::max(earliest, step + (strictly ? std::max(other->due, other->start + 1) : other->due));
  }
  return earliest;
}

/// Latest starts by deadlines that no stall has put off; then, first deadline first, as much of the
/// lead as there is room for.
void Drafts::advance_arrivals(const std::vector<double>& at) {
  std::vector<Transfer*> coming;
  std::map<PackKey, std::vector<const Transfer*>> leaving;
  for (Transfer& t : transfers_) {
    if (t.brings()) {
      coming.push_back(&t);
    } else {
      leaving[t.move.key()].push_back(&t);
    }
  }
  std::ranges::stable_sort(coming, {}, [](const Transfer* t) { return t->due; });
  const std::map<const Transfer*, double> latest = latest_starts(coming, at);
  for (Transfer* const t : coming) {
    const int earliest = earliest_start(*t, leaving[t->move.key()]);
    while (t->start > earliest && time_of(at, t->start) > latest.at(t) &&
           rooms_.fits(t->move.tier, t->start - 1, t->start, t->size_bytes)) {
      --t->start;
      rooms_.hold(t->move.tier, t->start, t->start + 1, t->size_bytes);
    }
  }
}

/// What leaves the device goes first, so that what comes into it can have its room: of transfers
/// that start before the same instruction.
std::pair<int, int> Drafts::rank(const Transfer& t) {
  if (t.brings()) {
    return {t.empties_device() ? 1 : kIntoDevice + 1, t.due - t.start};
  }
  return {t.move.tier == Tier() ? kIntoDevice : 0, 0};
}

/// What an update needs comes whatever is decided, since that is known later; when the step is
/// skipped, it goes as it came.
Program Drafts::write() {
  Program program = list_.framed();
  std::vector<std::vector<const Transfer*>> starting(static_cast<std::size_t>(count_));
  for (const Transfer& t : transfers_) {
    const int start = t.start < 0 ? t.start + count_ : std::min(t.start, count_ - 1);
    starting[static_cast<std::size_t>(start)].push_back(&t);
  }
  const std::vector<Instruction> framed = std::move(program.step);
  program.step.clear();
  written_at_.assign(static_cast<std::size_t>(count_), 0);
  std::vector<int> first(static_cast<std::size_t>(count_), 0), first_arrival = first;
  std::vector<std::pair<std::size_t, const Transfer*>> written;
  const auto add = [&](const Transfer& t, Instruction move) {
    written.emplace_back(program.step.size(), &t);
    program.step.push_back(move);
  };
  for (int k = 0; k < count_; ++k) {
    const auto at = static_cast<std::size_t>(k);
    std::ranges::stable_sort(starting[at], {}, [](const Transfer* t) { return rank(*t); });
    first[at] = static_cast<int>(program.step.size());
    first_arrival[at] = -1;
    for (const Transfer* const t : starting[at]) {
      if (first_arrival[at] < 0 && rank(*t).first >= kIntoDevice) {
        first_arrival[at] = static_cast<int>(program.step.size());
      }
      Instruction move = t->move;
      const bool both = !t->brings() && move.when == When::applied && !move.clean;
      move.when = move.when == When::applied && !both ? When::always : move.when;
      add(*t, move);
      if (both) {
        move.when = When::skipped;
        move.clean = true;
        add(*t, move);
      }
    }
    written_at_[at] = static_cast<int>(program.step.size());
    first_arrival[at] = first_arrival[at] < 0 ? written_at_[at] : first_arrival[at];
    program.step.push_back(framed[at]);
  }
  for (const auto& [index, t] : written) {
    Instruction& move = program.step[index];
    const bool next_step = t->start < 0 || t->due >= count_;
    const auto due = static_cast<std::size_t>(
        t->due >= count_ && t->due > t->start ? t->due - count_ : std::min(t->due, count_ - 1));
    // What is on its way out of the device may have come into it by a departure from elsewhere.
    const int room = t->empties_device() ? first_arrival[due] : first[due];
    const bool gone = !t->brings() || t->empties_device();
    move.needed_by = move.clean  ? -1
                     : !gone     ? written_at_[due]
                     : next_step ? room
                                 : std::max(room, static_cast<int>(index) + 1);
  }
  return program;
}

}  // namespace

Program with_transfers(const Program& program,
                       const Placement& placement,
                       const PackSizes& sizes,
                       const Timing& timing,
                       const Budgets& budgets,
                       const Drafting& drafting) {
  // Room either keeps what is used again or lets transfers run ahead; which is better, time tells.
  const bool full = drafting.effort == Effort::full;
  std::optional<Draft> best;
  for (const int spare : full ? std::vector{0, 1, 2, 3, 5, 8} : std::vector{2}) {
    TransferList list(program, placement, sizes, budgets);
    list.make(spare, drafting.kept_free);
    Draft draft = Drafts(program, list, sizes, timing).best(drafting);
    if (!best || draft.seconds < best->seconds) {
      best = std::move(draft);
    }
  }
  return std::move(best->program);
}

}  // namespace strata::offload
