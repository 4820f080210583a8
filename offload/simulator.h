#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/program.h"

namespace strata::offload {

/// A directed way between two tiers, served by one lane: its transfers run one after the other in
/// the order of the program.
struct Link {
  Tier from, to;
  friend auto operator<=>(const Link&, const Link&) = default;
};
/// "host -> device"
std::string to_string(const Link& link);

/// How long things take: what a machine gives, as plans see it.
struct Timing {
  std::function<double(const Instruction&)> compute_seconds;  // of what is no move
  std::map<Link, double> bytes_per_second;
  double latency_seconds = 0;  // of each transfer
  double transfer_seconds(const Instruction& move, std::int64_t size_bytes) const;
};

/// When an instruction runs, or a transfer is under way.
struct Moment {
  double begin = 0, end = 0;
};
/// What was waited for.
struct Cause {
  Link link;
  PackClass cls = {};
  friend auto operator<=>(const Cause&, const Cause&) = default;
};
/// A step on virtual time, under one outcome.
struct Simulation {
  std::vector<Moment> at;      // by instruction; what does not run takes no time
  std::vector<double> stalls;  // by instruction: how long transfers were waited for before it
  std::map<Cause, double> stalls_by_cause;  // each for the transfer that came last
  double seconds = 0;                       // of the step
  double compute_seconds = 0;               // of its instructions
  std::map<Link, double> busy;              // seconds of transfers
  std::map<Link, std::int64_t> moved_bytes;
  /// No order of the same work is faster: the busiest resource. Compute is one of them.
  double bound_seconds() const;
  /// Its name: "compute", "host -> device".
  std::string bound_by() const;
  double stalled_seconds() const;
};

/// Obeys the program as the executor does: an instruction starts when the one before it is done and
/// the transfers that it waits for are; transfers of one link run in order, links beside each
/// other.
Simulation simulate(const Program& program,
                    const PackSizes& sizes,
                    const Timing& timing,
                    Outcome outcome = Outcome::clip_is_one);

}  // namespace strata::offload
