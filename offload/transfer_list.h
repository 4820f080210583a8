#pragma once
#include <map>
#include <vector>

#include "offload/rooms.h"
#include "offload/stays.h"

namespace strata::offload {

/// A transfer, started before instruction `start` and waited for before `due`; both of the program
/// without transfers. A start below 0 is one of the step before, a due from the number of
/// instructions on one of the next.
struct Transfer {
  Instruction move;
  std::int64_t size_bytes = 0;
  int start = 0, due = 0;
  int earliest = 0;  // of one that brings bytes: its start
  int latest = 0;    // of one that takes them away: when it is due
  bool brings() const { return move.op == Op::fetch || move.op == Op::restore; }
  bool empties_device() const { return move.source == Tier() && move.op != Op::fetch; }
};

/// What leaves the device makes room for what comes into it; elsewhere both happen at once.
int left_by(Tier tier, int index, int instructions);

/// Which transfers a program needs under a placement, and the room that is taken without any of
/// them reaching out in time: each is waited for right where it starts.
class TransferList {
 public:
  /// Room alone. Everything passed outlives it.
  TransferList(const Program& program,
               const Placement& placement,
               const PackSizes& sizes,
               const Budgets& budgets);
  /// And transfers. What is used again soon stays where it is as long as there is room for that
  /// and for `spare` transfers beside it, and for what is to be kept free. Throws infeasible when
  /// there is not even room for what instructions use.
  void make(int spare, const Budgets& kept_free = {});
  const Program& framed() const { return table_.framed(); }
  const Rooms& rooms() const { return rooms_; }
  const std::vector<Transfer>& transfers() const { return transfers_; }

 private:
  std::int64_t size(PackKey key) const { return sizes_.at(key); }
  int left_by(Tier tier, int index) const { return offload::left_by(tier, index, count_); }
  Tier between(PackKey key, std::size_t stay) const;
  bool lasts(PackKey key) const;
  Tier home(PackKey key) const;
  void hold_still();
  void hold_stays();
  void require_room() const;
  void join_stays(int spare);
  bool hands_over(PackKey key, const std::vector<Stay>& stays, std::size_t stay);
  void add_lasting(PackKey key, const std::vector<Stay>& stays);
  void add_passing(PackKey key, const std::vector<Stay>& stays);

  const Program& base_;
  const Placement& placement_;
  const PackSizes& sizes_;
  const int count_;
  int decide_ = 0;  // index of the step's
  StayTable table_;
  Rooms rooms_;
  std::vector<Transfer> transfers_;
};

}  // namespace strata::offload
