#include "offload/simulator.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

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

double Simulation::bound_seconds() const {
  double bound = compute_seconds;
  for (const auto& [link, taken] : busy) {
    bound = std::max(bound, taken);
  }
  return bound;
}

std::string Simulation::bound_by() const {
  for (const auto& [link, taken] : busy) {
    if (taken > compute_seconds && taken == bound_seconds()) {
      return to_string(link);
    }
  }
  return "compute";
}

double Simulation::stalled_seconds() const {
  return std::accumulate(stalls.begin(), stalls.end(), 0.0);
}

namespace {

class Clockwork {
 public:
  Clockwork(const Program& program, const PackSizes& sizes, const Timing& timing)
      : program_(program), sizes_(sizes), timing_(timing), waits_(program.step.size() + 1) {
    s_.at.resize(program.step.size());
    s_.stalls.resize(program.step.size() + 1);
  }

  Simulation run(Outcome outcome) {
    const int count = static_cast<int>(program_.step.size());
    bool decided = program_.lazy;
    for (int k = 0; k < count; ++k) {
      const Instruction& i = program_.step[static_cast<std::size_t>(k)];
      wait_for_moves(k);
      const bool runs_now = !decided || runs(i.when, outcome);
      if (runs_now && is_move(i.op)) {
        start(i, k);
      } else {
        const double seconds = runs_now ? timing_.compute_seconds(i) : 0;
        s_.at[static_cast<std::size_t>(k)] = {now_, now_ + seconds};
        now_ += seconds;
        s_.compute_seconds += seconds;
      }
      decided = decided || i.op == Op::decide;
    }
    wait_for_moves(count);
    s_.seconds = now_;
    return std::move(s_);
  }

 private:
  void wait_for_moves(int k) {
    double ready = now_;
    int last = -1;
    for (const int move : waits_[static_cast<std::size_t>(k)]) {
      if (const double end = s_.at[static_cast<std::size_t>(move)].end; end > ready) {
        ready = end;
        last = move;
      }
    }
    if (last >= 0) {
      const Instruction& move = program_.step[static_cast<std::size_t>(last)];
      s_.stalls[static_cast<std::size_t>(k)] = ready - now_;
      s_.stalls_by_cause[{{move.source, move.tier}, move.cls}] += ready - now_;
    }
    now_ = ready;
  }
  void start(const Instruction& move, int k) {
    const Link link{move.source, move.tier};
    const std::int64_t bytes = move.clean ? 0 : sizes_.at(move.key());
    const double seconds = timing_.transfer_seconds(move, bytes);
    double& free = free_[link];
    const double begin = std::max(free, now_);
    s_.at[static_cast<std::size_t>(k)] = {begin, begin + seconds};
    free = seconds > 0 ? begin + seconds : free;
    s_.busy[link] += seconds;
    s_.moved_bytes[link] += bytes;
    waits_[static_cast<std::size_t>(due(move, k))].push_back(k);
  }

  const Program& program_;
  const PackSizes& sizes_;
  const Timing& timing_;
  std::vector<std::vector<int>> waits_;
  std::map<Link, double> free_;
  Simulation s_;
  double now_ = 0;
};

}  // namespace

Simulation simulate(const Program& program,
                    const PackSizes& sizes,
                    const Timing& timing,
                    Outcome outcome) {
  return Clockwork(program, sizes, timing).run(outcome);
}

}  // namespace strata::offload
