#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "offload/planner.h"

namespace strata::offload {

/// Bytes alive in each tier of memory while each instruction of a program runs, and how many there
/// may be. Tiers that are not among the budgets, and files, have no end. Instructions below 0 are
/// those of the step before, from the number of instructions on those of the next: the same ones.
class Rooms {
 public:
  Rooms(int instructions, const Budgets& budgets);
  /// While instructions [begin, end) run. Negative: they are not needed after all.
  void hold(Tier tier, int begin, int end, std::int64_t size_bytes);
  /// Of a budget, from now on.
  void keep_free(Tier tier, std::int64_t size_bytes);
  bool fits(Tier tier, int begin, int end, std::int64_t size_bytes) const;
  /// Where an instruction finds a tier fullest.
  struct Peak {
    int at = 0;
    std::int64_t size_bytes = 0, budget_bytes = 0;
  };
  std::map<Tier, Peak> peaks() const;

 private:
  struct Room {
    std::vector<std::int64_t> bytes;  // by instruction
    std::int64_t budget = 0;
  };
  std::size_t in_step(int instruction) const;
  int instructions_;
  std::map<Tier, Room> rooms_;
};

}  // namespace strata::offload
