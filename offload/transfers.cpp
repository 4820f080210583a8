#include "offload/transfers.h"

#include <algorithm>
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
  /// The fastest.
  Draft best(int rounds);

 private:
  static constexpr double kMargin = 0.25;  // of a transfer's time, that it may be late by
  static constexpr double kTrust = 0.7;    // in the last draft's times: with 1 they swing
  static constexpr int kPatience = 2;      // drafts no faster than those before
  static constexpr int kIntoDevice = 2;    // from this rank on, of transfers that start together

  /// Who has room first: what leaves, so that nobody waits for it to be gone, or what comes.
  enum class First : std::uint8_t { departures, arrivals };
  Draft draft();
  std::vector<double> stretched_starts() const;
  void spread(const std::vector<double>& at, First first);
  void delay_departures(const std::vector<double>& at);
  void advance_arrivals(const std::vector<double>& at);
  static std::pair<int, int> rank(const Transfer& t);
  Program write();

  const Program& base_;
  const TransferList& list_;
  const PackSizes& sizes_;
  const Timing& timing_;
  const int count_;
  Rooms rooms_;
  std::vector<Transfer> transfers_;
  std::vector<int> written_at_;  // where instructions are in the program written last
};

Draft Drafts::best(int rounds) {
  Draft best = draft();
  for (const First first : {First::departures, First::arrivals}) {
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
  return best;
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
    done = std::max(done, at[static_cast<std::size_t>(std::min(t->start, count_ - 1))]) +
           timing_.crowded_seconds(t->move, t->size_bytes);
    int latest = t->latest;  // what brings the same bytes back comes after
    for (const Transfer& other : transfers_) {
      if (other.brings() && other.move.key() == t->move.key() && other.due >= t->start) {
        latest = std::min(latest, std::max(other.start, t->start));
      }
    }
    while (t->due < latest && at[static_cast<std::size_t>(t->due)] < done) {
      const Tier source = t->move.source;
      const int held = left_by(source, t->due, count_), end = std::min(held + 1, count_);
      if (!rooms_.fits(source, held, end, t->size_bytes)) {
        break;
      }
      rooms_.hold(source, held, end, t->size_bytes);
      ++t->due;
    }
  }
}

/// Latest starts by deadlines that no stall has put off, from the end; then, first deadline first,
/// as much of the lead as there is room for.
void Drafts::advance_arrivals(const std::vector<double>& at) {
  std::vector<Transfer*> coming;
  for (Transfer& t : transfers_) {
    if (t.brings()) {
      coming.push_back(&t);
    }
  }
  std::ranges::stable_sort(coming, {}, [](const Transfer* t) { return t->due; });
  std::map<Link, double> next;
  std::map<const Transfer*, double> latest;
  for (auto t = coming.rbegin(); t != coming.rend(); ++t) {
    const double seconds = timing_.crowded_seconds((*t)->move, (*t)->size_bytes);
    const auto [begin, first] = next.try_emplace({(*t)->move.source, (*t)->move.tier},
                                                 at[static_cast<std::size_t>((*t)->due)]);
    begin->second = std::min(begin->second, at[static_cast<std::size_t>((*t)->due)]) - seconds;
    latest[*t] = begin->second - kMargin * seconds;
  }
  // What brings bytes must come after what took the same away.
  std::map<PackKey, std::vector<const Transfer*>> leaving;
  for (const Transfer& t : transfers_) {
    if (!t.brings()) {
      leaving[t.move.key()].push_back(&t);
    }
  }
  for (Transfer* const t : coming) {
    int earliest = t->earliest;
    for (const Transfer* const other : leaving[t->move.key()]) {
      if (other->start <= t->due) {
        const bool fills = other->move.tier == Tier();  // last of what starts where it does
        earliest = std::max(earliest, fills ? std::max(other->due, other->start + 1) : other->due);
      }
    }
    while (t->start > earliest && at[static_cast<std::size_t>(t->start)] > latest[t] &&
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
    return {t.empties_device() ? 1 : kIntoDevice + 1, t.due};
  }
  return {t.move.tier == Tier() ? kIntoDevice : 0, 0};
}

/// What an update needs comes whatever is decided, since that is known later; when the step is
/// skipped, it goes as it came.
Program Drafts::write() {
  Program program = list_.framed();
  std::vector<std::vector<const Transfer*>> starting(static_cast<std::size_t>(count_));
  for (const Transfer& t : transfers_) {
    starting[static_cast<std::size_t>(std::min(t.start, count_ - 1))].push_back(&t);
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
    const auto due = static_cast<std::size_t>(std::min(t->due, count_ - 1));
    // What is on its way out of the device may have come into it by a departure from elsewhere.
    const int room = t->empties_device() ? first_arrival[due] : first[due];
    const bool gone = !t->brings() || t->empties_device();
    move.needed_by = move.clean ? -1
                     : gone     ? std::max(room, static_cast<int>(index) + 1)
                                : written_at_[due];
  }
  return program;
}

}  // namespace

Program with_transfers(const Program& program,
                       const Placement& placement,
                       const PackSizes& sizes,
                       const Timing& timing,
                       const Budgets& budgets,
                       Effort effort) {
  // Room either keeps what is used again or lets transfers run ahead; which is better, time tells.
  std::optional<Draft> best;
  const std::vector<int> spares =
      effort == Effort::full ? std::vector{0, 1, 2, 3, 5, 8} : std::vector{2};
  for (const int spare : spares) {
    TransferList list(program, placement, sizes, budgets);
    list.make(spare);
    Draft draft = Drafts(program, list, sizes, timing).best(effort == Effort::full ? 5 : 1);
    if (!best || draft.seconds < best->seconds) {
      best = std::move(draft);
    }
  }
  return std::move(best->program);
}

}  // namespace strata::offload
