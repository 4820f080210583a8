#pragma once
#include <map>
#include <vector>

#include "core/program.h"
#include "offload/transfers.h"

namespace strata::offload {

/// A stretch of a program in which a pack is in one tier, because instructions there use it.
/// Indices are of the program without transfers.
struct Stay {
  Tier tier;
  int first = 0, last = 0;   // instructions that use it
  bool begins = false;       // the first of them creates it
  bool ends = false;         // after the last of them it is no more
  bool written = false;      // its bytes change
  When when = When::always;  // under which all of the instructions run
};

/// Where every instruction of a program runs under a placement, and which packs it needs there.
class StayTable {
 public:
  StayTable(const Program& program, const Placement& placement);
  /// By pack, in order; packs that the placement leaves where they are created are not in it.
  const std::map<PackKey, std::vector<Stay>>& stays() const { return stays_; }
  /// The program with its instructions where they run and with homes; its moves are missing.
  const Program& framed() const { return framed_; }
  /// Two neighbouring stays in one tier become one.
  void join(PackKey key, std::size_t first);
  /// Where the pack is between two of its stays.
  Tier between(PackKey key, const Stay& before, const Stay& after) const;

 private:
  void add_uses(int index, const Effects& effects);
  void add(PackKey key, int index, bool creates, bool writes, bool ends);
  std::optional<Tier> resting_place(PackKey key) const;

  const Placement& placement_;
  Program framed_;
  std::map<PackKey, std::vector<Stay>> stays_;
};

}  // namespace strata::offload
