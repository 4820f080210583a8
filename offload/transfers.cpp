#include "offload/transfers.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "offload/stays.h"

namespace strata::offload {
namespace {

/// Bytes alive in a tier while each instruction runs.
class Room {
 public:
  Room(std::size_t count, std::int64_t budget) : bytes_(count, 0), budget_(budget) {}
  void add(int begin, int end, std::int64_t size) {
    for (int k = begin; k < end; ++k) {
      bytes_[static_cast<std::size_t>(k)] += size;
    }
  }
  bool fits(int at, std::int64_t size) const {
    return bytes_[static_cast<std::size_t>(at)] + size <= budget_;
  }
  bool fits(int begin, int end, std::int64_t size) const {
    for (int k = begin; k < end; ++k) {
      if (!fits(k, size)) {
        return false;
      }
    }
    return true;
  }
  /// Where it is fullest.
  int fullest() const {
    return static_cast<int>(std::max_element(bytes_.begin(), bytes_.end()) - bytes_.begin());
  }
  std::int64_t at(int index) const { return bytes_[static_cast<std::size_t>(index)]; }
  std::int64_t budget() const { return budget_; }

 private:
  std::vector<std::int64_t> bytes_;
  std::int64_t budget_;
};

/// A transfer, started before instruction `start` and waited for before `due`; both of the program
/// without transfers.
struct Transfer {
  Instruction move;
  std::int64_t size_bytes = 0;
  int start = 0, due = 0;
  int earliest = 0;  // of a transfer that brings bytes: its start
  int latest = 0;    // of one that takes them away: when it is due
  bool brings() const { return move.op == Op::fetch || move.op == Op::restore; }
  bool empties_device() const { return move.source == Tier() && move.op != Op::fetch; }
};
constexpr int kIntoDevice = 2;  // from this rank on, of transfers that start together

class Planner {
 public:
  Planner(const Program& program,
          const Placement& placement,
          const PackSizes& sizes,
          const Timing& timing,
          const Budgets& budgets,
          int spare)
      : base_(program),
        placement_(placement),
        sizes_(sizes),
        timing_(timing),
        budgets_(budgets),
        spare_(spare),
        count_(static_cast<int>(program.step.size())),
        table_(program, placement) {
    decide_ = static_cast<int>(
        std::find_if(program.step.begin(),
                     program.step.end(),
                     [](const Instruction& i) { return i.op == Op::decide && i.block < 0; }) -
        program.step.begin());
  }

  struct Draft {
    Program program;
    double seconds = 0;          // of its step, simulated
    std::vector<double> starts;  // of the instructions that it had before
  };
  std::map<Tier, std::int64_t> least() {
    reserve_what_must_be_there();
    std::map<Tier, std::int64_t> bytes;
    for (const auto& [tier, r] : rooms_) {
      bytes[tier] = r.at(r.fullest());
    }
    return bytes;
  }
  Draft run(int rounds) {
    reserve_what_must_be_there();
    require_room();
    join_stays();
    make_transfers();
    Draft best = draft();
    for (const First first : {First::departures, First::arrivals}) {
      std::vector<double> starts = stretched_starts();
      double before = best.seconds;
      for (int round = 0; round < rounds && !transfers_.empty(); ++round) {
        spread(starts, first);
        Draft next = draft();
        starts = next.starts;
        const bool settled = round > 0 && next.seconds >= before * 0.999;
        before = std::min(before, next.seconds);
        if (next.seconds < best.seconds) {
          best = std::move(next);
        }
        if (settled) {
          break;
        }
      }
    }
    return best;
  }

 private:
  static constexpr double kMargin = 0.25;  // of a transfer's time, that it may be late by

  std::int64_t size(PackKey key) const { return sizes_.at(key); }
  Room* room(Tier tier) {
    const auto at = rooms_.find(tier);
    return at == rooms_.end() ? nullptr : &at->second;
  }
  void hold(Tier tier, int begin, int end, std::int64_t bytes) {
    if (Room* const r = room(tier)) {
      r->add(begin, end, bytes);
    }
  }
  Tier between(PackKey key, std::size_t stay) const {
    const auto& stays = table_.stays().at(key);
    return table_.between(key, stays[stay], stays[std::min(stay + 1, stays.size() - 1)]);
  }
  bool lasts(PackKey key) const {
    return std::find(base_.residents.begin(), base_.residents.end(), key) != base_.residents.end();
  }
  Tier home(PackKey key) const {
    const auto at = placement_.homes.find(key);
    return at == placement_.homes.end() ? Tier() : at->second;
  }

  /// What leaves the device makes room for what comes into it; elsewhere both happen at once.
  int left_by(Tier tier, int index) const {
    return tier == Tier() ? index : std::min(index + 1, count_);
  }
  void reserve_what_must_be_there();
  void require_room() const;
  void join_stays();
  void make_transfers();
  bool hands_over(PackKey key, const std::vector<Stay>& stays, std::size_t stay);
  void add_lasting(PackKey key, const std::vector<Stay>& stays);
  void add_passing(PackKey key, const std::vector<Stay>& stays);
  Draft draft();
  std::vector<double> stretched_starts() const;
  /// Who has room first: what leaves, so that nobody waits for it to be gone, or what comes.
  enum class First : std::uint8_t { departures, arrivals };
  void spread(const std::vector<double>& at, First first);
  void delay_departures(const std::vector<double>& at);
  void advance_arrivals(const std::vector<double>& at);
  Program write();

  const Program& base_;
  const Placement& placement_;
  const PackSizes& sizes_;
  const Timing& timing_;
  const Budgets& budgets_;
  const int spare_;  // transfers for which room is left when packs are kept where they are
  const int count_;
  int decide_ = 0;
  StayTable table_;
  std::map<Tier, Room> rooms_, least_;
  std::vector<Transfer> transfers_;
  std::vector<int> written_at_;  // where instructions are in the program written last
};

/// Bytes without which the program cannot run: those that instructions use while they run, and
/// those that wait in a tier of memory.
void Planner::reserve_what_must_be_there() {
  for (const auto& [tier, bytes] : budgets_) {
    if (tier.kind != TierKind::nvme) {
      rooms_.emplace(tier, Room(static_cast<std::size_t>(count_), bytes));
    }
  }
  const Program& placed = table_.framed();
  for (const Replica& home : placed.homes) {
    hold(home.tier, 0, count_, size(home.key));
  }
  std::map<Replica, std::vector<Interval>> still;  // what no transfer touches, over all outcomes
  for (const Outcome outcome : {Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip}) {
    for (const Holding& h : holdings(placed, outcome)) {
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
      hold(replica.tier, first, static_cast<int>(end - live.begin()), *begin ? bytes : 0);
      begin = end;
    }
  }
  for (const auto& [key, stays] : table_.stays()) {
    for (std::size_t s = 0; s < stays.size(); ++s) {
      if (!lasts(key) || stays[s].tier != home(key)) {
        hold(stays[s].tier, stays[s].first, left_by(stays[s].tier, stays[s].last + 1), size(key));
      }
      if (!lasts(key) && s + 1 < stays.size() && !stays[s].ends) {
        const Tier waits = between(key, s);
        hold(waits, stays[s].last + 1, left_by(waits, stays[s + 1].first), size(key));
      }
    }
  }
}

void Planner::require_room() const {
  for (const auto& [tier, r] : rooms_) {
    if (const int k = r.fullest(); r.at(k) > r.budget()) {
      throw Infeasible({tier,
                        r.at(k),
                        r.budget(),
                        fmt::format("they are needed at instruction {} ({} of block {})",
                                    k,
                                    to_string(base_.step[static_cast<std::size_t>(k)].op),
                                    base_.step[static_cast<std::size_t>(k)].block)});
    }
  }
}

/// What is used again soon stays, as long as there is room for that and for some transfers beside
/// it: shortest gaps first.
void Planner::join_stays() {
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
    Room* const r = room(before->tier);
    if (r == nullptr || !r->fits(begin, end, size(gap.key) + spare_ * largest[before->tier])) {
      continue;
    }
    r->add(left_by(before->tier, begin), end, size(gap.key));
    if (!lasts(gap.key)) {
      const Tier waits = between(gap.key, static_cast<std::size_t>(before - stays.begin()));
      hold(waits, begin, left_by(waits, end), -size(gap.key));
    }
    table_.join(gap.key, static_cast<std::size_t>(before - stays.begin()));
  }
}

void Planner::make_transfers() {
  for (const auto& [key, stays] : table_.stays()) {
    lasts(key) ? add_lasting(key, stays) : add_passing(key, stays);
  }
}

Instruction move_of(Op op, PackKey key, Tier source, Tier tier) {
  return {.op = op,
          .block = key.block,
          .micro_batch = key.micro_batch,
          .cls = key.cls,
          .tier = tier,
          .source = source};
}

/// Whether what was just written in one tier of memory goes on to another without a way home, and
/// from there home later. Takes the room for it.
bool Planner::hands_over(PackKey key, const std::vector<Stay>& stays, std::size_t s) {
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
  Room* const r = room(stay.tier);
  if (r != nullptr && !r->fits(begin, end, size(key))) {
    return false;
  }
  hold(stay.tier, begin, end, size(key));
  return true;
}

/// From home and back around every stay elsewhere.
void Planner::add_lasting(PackKey key, const std::vector<Stay>& stays) {
  const Tier at_home = home(key);
  int free_from = 0;  // from where on the home's bytes are the latest
  bool handed = false;
  for (std::size_t s = 0; s < stays.size(); ++s) {
    const Stay& stay = stays[s];
    if (stay.tier == at_home) {
      free_from = stay.last + 1;
      continue;
    }
    const bool from_before = std::exchange(handed, hands_over(key, stays, s));
    const int next = s + 1 < stays.size() ? stays[s + 1].first : count_ - 1;
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
void Planner::add_passing(PackKey key, const std::vector<Stay>& stays) {
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

Planner::Draft Planner::draft() {
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
std::vector<double> Planner::stretched_starts() const {
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
void Planner::spread(const std::vector<double>& at, First first) {
  least_ = least_.empty() ? rooms_ : least_;
  rooms_ = least_;
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
void Planner::delay_departures(const std::vector<double>& at) {
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
    Room* const r = room(t->move.source);
    int latest = t->latest;  // what brings the same bytes back comes after
    for (const Transfer& other : transfers_) {
      if (other.brings() && other.move.key() == t->move.key() && other.due >= t->start) {
        latest = std::min(latest, std::max(other.start, t->start));
      }
    }
    while (t->due < latest && at[static_cast<std::size_t>(t->due)] < done) {
      const int held = left_by(t->move.source, t->due);
      if (r != nullptr && held < count_ && !r->fits(held, t->size_bytes)) {
        break;
      }
      hold(t->move.source, held, std::min(held + 1, count_), t->size_bytes);
      ++t->due;
    }
  }
}

/// Latest starts by deadlines that no stall has put off, from the end; then, first deadline first,
/// as much of the lead as there is room for.
void Planner::advance_arrivals(const std::vector<double>& at) {
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
    Room* const r = room(t->move.tier);
    while (t->start > earliest && at[static_cast<std::size_t>(t->start)] > latest[t] &&
           (r == nullptr || r->fits(t->start - 1, t->size_bytes))) {
      --t->start;
      hold(t->move.tier, t->start, t->start + 1, t->size_bytes);
    }
  }
}

/// What leaves the device goes first, so that what comes into it can have its room: of transfers
/// that start before the same instruction.
std::pair<int, int> rank(const Transfer& t) {
  if (t.brings()) {
    return {t.empties_device() ? 1 : kIntoDevice + 1, t.due};
  }
  return {t.move.tier == Tier() ? kIntoDevice : 0, 0};
}

/// What an update needs comes whatever is decided, since that is known later; when the step is
/// skipped, it goes as it came.
Program Planner::write() {
  Program program = table_.framed();
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
  std::optional<Planner::Draft> best;
  const std::vector<int> spares =
      effort == Effort::full ? std::vector{0, 1, 2, 3, 5, 8} : std::vector{2};
  for (const int spare : spares) {
    Planner planner(program, placement, sizes, timing, budgets, spare);
    Planner::Draft draft = planner.run(effort == Effort::full ? 4 : 1);
    if (!best || draft.seconds < best->seconds) {
      best = std::move(draft);
    }
  }
  return std::move(best->program);
}

std::map<Tier, std::int64_t> least_bytes(const Program& program,
                                         const Placement& placement,
                                         const PackSizes& sizes) {
  Budgets tiers{{Tier(), 0}};
  const auto add = [&](const auto& places) {
    for (const auto& [key, tier] : places) {
      tiers[tier] = 0;
    }
  };
  add(placement.homes);
  add(placement.waits_in);
  add(placement.update_in);
  const Timing none;
  return Planner(program, placement, sizes, none, tiers, 0).least();
}

Plan place(std::span<Program* const> programs,
           const Placement& placement,
           const PackSizes& sizes,
           const Timing& timing,
           const Budgets& budgets) {
  // Static places lose some bytes between them; what is lost, transfers must do without.
  constexpr int kTries = 12;
  std::vector<Program> bare;
  Budgets allowed = budgets;
  for (auto& [tier, bytes] : allowed) {
    bytes = bytes == kLeast ? 0 : bytes;
  }
  for (const Program* const program : programs) {
    bare.push_back(*program);
    for (const auto& [tier, bytes] : least_bytes(*program, placement, sizes)) {
      if (const auto budget = budgets.find(tier);
          budget != budgets.end() && budget->second == kLeast) {
        allowed[tier] = std::max(allowed[tier], bytes);
      }
    }
  }
  for (int attempt = 1;; ++attempt) {
    try {
      for (std::size_t k = 0; k < programs.size(); ++k) {
        *programs[k] = with_transfers(bare[k], placement, sizes, timing, allowed);
      }
    } catch (const Infeasible& error) {
      Misfit misfit = error.misfit();
      const std::int64_t lost = budgets.at(misfit.tier) - allowed.at(misfit.tier);
      misfit.needed_bytes += lost;
      misfit.budget_bytes += lost;
      throw Infeasible(std::move(misfit));
    }
    Plan plan = make_plan(programs, sizes);
    Budgets reached;
    bool fits = true;
    for (const auto& [tier, planned] : plan.tiers) {
      const auto budget = budgets.find(tier);
      const std::int64_t most = budget == budgets.end() ? 0 : budget->second;
      reached[tier] = most == kLeast ? planned.arena_bytes : most;
      const std::int64_t over = planned.arena_bytes - reached[tier];
      if (over > 0 && tier.kind != TierKind::nvme) {
        allowed[tier] -= over;
        fits = false;
      }
    }
    if (fits || attempt == kTries) {
      require_fit(plan, reached);
      return plan;
    }
  }
}

}  // namespace strata::offload
