#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/residency.h"

namespace strata {

/// Follows a program of one rank: which replicas are there when, what is under way between them,
/// and whether that is within the budget. All give a text of what is wrong; empty: nothing.
class ReplicaCheck {
 public:
  /// What lasts is there. Both outlive it.
  ReplicaCheck(const Program& program, const std::optional<Budget>& budget);
  /// Before the first instruction: the step begins while these moves, which run on into it, are
  /// under way.
  std::string begin_with(std::span<const int> moves);
  /// Transfers that the instruction waits for.
  std::string complete_moves(int index);
  /// A move.
  std::string start(const Instruction& move, int index);
  /// Anything else: whether its packs are there, and what it does to them.
  std::string check(const Instruction& instruction, const Effects& effects) const;
  std::string apply(const Instruction& instruction, const Effects& effects);
  /// After the last instruction: what lasts is there again, and nothing else, but for what runs on.
  std::string finish();

 private:
  std::int64_t size(PackKey key) const;
  void place(const Replica& replica);
  std::string may_run_on(const Instruction& move) const;
  std::string begin(const Instruction& move);
  std::string within_budgets() const;

  const Program& p_;
  const std::optional<Budget>& budget_;
  Residency residency_;
  std::multimap<int, const Instruction*> under_way_;  // by the instruction that waits
  std::vector<const Instruction*> running_on_;        // those that one of the next step waits for
  std::map<Tier, std::int64_t> bytes_;
};

}  // namespace strata
