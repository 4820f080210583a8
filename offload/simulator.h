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

/// Links that share a capacity, as reads and writes of one drive do. One that is used alone has its
/// own rate; of several at a time each has an equal part of the capacity, at most its own rate, and
/// what it leaves goes to the others.
struct SharedLinks {
  std::vector<Link> links;
  double bytes_per_second = 0;  // of all that are used, when they are two or more
};

/// Who runs instructions whose tier is not the device.
enum class HostCores : std::uint8_t {
  are_device,     // a CPU device: all instructions run one after the other
  beside_device,  // a GPU: they run on a resource of their own, in order, beside the device's
};

/// How long things take: what a machine gives, as plans see it.
struct Timing {
  std::function<double(const Instruction&)> compute_seconds;  // of what is no move
  std::map<Link, double> bytes_per_second;
  double latency_seconds = 0;  // of each transfer
  std::vector<SharedLinks> shared = {};
  HostCores host_cores = HostCores::are_device;
  double transfer_seconds(const Instruction& move, std::int64_t size_bytes) const;
  /// When half of what its link shares is used by others.
  double crowded_seconds(const Instruction& move, std::int64_t size_bytes) const;
  /// Whether an instruction runs beside the device.
  bool beside_device(const Instruction& i) const {
    return host_cores == HostCores::beside_device && i.tier != Tier();
  }
};
/// When each instruction would start if no transfer were waited for.
std::vector<double> compute_alone(const Program& program, const Timing& timing);

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
/// A step on virtual time, as decisions come out. Where transfers run on, one of many: it begins
/// with those of the step before under way, and its own may end after it.
struct Simulation {
  std::vector<Moment> at;      // by instruction; what does not run takes no time
  std::vector<double> stalls;  // by instruction: how long transfers were waited for before it
  std::map<Cause, double> stalls_by_cause;  // each for the transfer that came last
  double seconds = 0;                       // of the step
  double compute_seconds = 0;               // of its instructions
  double host_seconds = 0;                  // of these, what ran beside the device
  std::map<Link, double> busy;              // seconds of transfers, each link alone
  std::map<Link, std::int64_t> moved_bytes;
  double shared_seconds = 0;  // least time of what links that share a capacity move
  /// No order of the same work is faster: the busiest resource. With host cores beside the device
  /// these are two, and each of them alone is a bound.
  double bound_seconds() const;
  /// Its name: "compute", "host cores", "host -> device", "shared links".
  std::string bound_by() const;
  double stalled_seconds() const;
};

/// Obeys the program as the executor does. A transfer starts in its place in the order; those of
/// one link run in order, links beside each other. On a CPU device an instruction starts when the
/// one before it is done and the transfers that it waits for are. With host cores beside the device
/// nobody waits to issue: an instruction starts when the one before it on its resource is done, the
/// transfers waited for at its place are, and what was decided for its block is; a transfer when
/// what it copies is written and what came before it where it goes is done. The two are at most one
/// block apart: its bytes come while the host works on the block before, and the device goes on
/// while they leave, for which there must be room.
Simulation simulate(const Program& program,
                    const PackSizes& sizes,
                    const Timing& timing,
                    Outcomes outcomes = Outcome::clip_is_one);

}  // namespace strata::offload
