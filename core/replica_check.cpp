#include "core/replica_check.h"

#include <algorithm>
#include <set>
#include <utility>

namespace strata {

ReplicaCheck::ReplicaCheck(const Program& program, const std::optional<Budget>& budget)
    : p_(program), budget_(budget) {
  for (const PackKey k : program.residents) {
    place({k});
  }
  for (const Replica& home : program.homes) {
    place(home);
  }
}

std::int64_t ReplicaCheck::size(PackKey k) const {
  if (!budget_) {
    return 0;
  }
  const auto it = budget_->sizes->find(k);
  return it == budget_->sizes->end() ? 0 : it->second;
}

void ReplicaCheck::place(const Replica& replica) {
  residency_.place(replica);
  bytes_[replica.tier] += size(replica.key);
}

std::string ReplicaCheck::begin_with(std::span<const int> moves) {
  for (const int index : moves) {
    const Instruction& move = p_.step[static_cast<std::size_t>(index)];
    if (std::string wrong = may_run_on(move); !wrong.empty()) {
      return wrong;
    }
    if (move.op == Op::evict) {  // what it takes home is newer than what is there
      const Replica source{move.key(), move.source};
      if (std::string wrong = residency_.create(source); !wrong.empty()) {
        return wrong;
      }
      bytes_[source.tier] += size(source.key);
    }
    if (std::string wrong = begin(move); !wrong.empty()) {
      return wrong;
    }
    under_way_.emplace(move.needed_by, &move);
  }
  return within_budgets();
}

std::string ReplicaCheck::complete_moves(int index) {
  while (!under_way_.empty() && under_way_.begin()->first <= index) {
    const Instruction& move = *under_way_.begin()->second;
    if (std::string wrong = residency_.finish(move); !wrong.empty()) {
      return wrong;
    }
    if (move.op != Op::fetch) {
      bytes_[move.source] -= size(move.key());
    }
    under_way_.erase(under_way_.begin());
  }
  return {};
}

std::string ReplicaCheck::may_run_on(const Instruction& move) const {
  const bool may = p_.kind == ProgramKind::train && (move.op == Op::fetch || move.op == Op::evict);
  return may ? "" : "is needed by instruction " + std::to_string(move.needed_by);
}

std::string ReplicaCheck::start(const Instruction& move, int index) {
  const int by = move.clean ? index + 1 : due(move, index);
  if (runs_on(move, index)) {
    if (std::string wrong = may_run_on(move); !wrong.empty()) {
      return wrong;
    }
    running_on_.push_back(&move);
  } else if (by > static_cast<int>(p_.step.size())) {
    return "is needed by instruction " + std::to_string(by);
  } else {
    under_way_.emplace(by, &move);
  }
  std::string wrong = begin(move);
  return wrong.empty() ? within_budgets() : wrong;
}

std::string ReplicaCheck::begin(const Instruction& move) {
  if (std::string wrong = residency_.start(move); !wrong.empty()) {
    return wrong;
  }
  if (move.op != Op::evict) {
    bytes_[move.tier] += size(move.key());
  }
  return {};
}

std::string ReplicaCheck::within_budgets() const {
  for (const auto& [tier, bytes] : bytes_) {
    if (!budget_ || !budget_->tier_bytes.contains(tier)) {
      continue;
    }
    if (const std::int64_t most = budget_->tier_bytes.at(tier); bytes > most) {
      return "needs " + std::to_string(bytes) + " bytes, the " + to_string(tier) + " budget is " +
             std::to_string(most);
    }
  }
  return {};
}

std::string ReplicaCheck::check(const Instruction& i, const Effects& e) const {
  for (const auto* set : {&e.reads, &e.writes, &e.adds_to, &e.ends}) {
    for (const PackKey k : *set) {
      if (std::ranges::find(e.creates, k) != e.creates.end()) {
        continue;
      }
      if (std::string wrong = residency_.usable({k, i.tier}); !wrong.empty()) {
        return wrong;
      }
    }
  }
  for (const PackKey k : e.creates) {
    if (residency_.exists({k, i.tier})) {
      return "creates " + to_string(k) + " which exists";
    }
  }
  return {};
}

/// What an instruction needs is leased while it runs: many readers, or one writer, of what is
/// there.
std::string ReplicaCheck::apply(const Instruction& i, const Effects& e) {
  for (const PackKey k : e.creates) {
    if (std::string wrong = residency_.create({k, i.tier}); !wrong.empty()) {
      return wrong;
    }
    bytes_[i.tier] += size(k);
  }
  for (const auto& [set, access] : {std::pair{&e.reads, Access::read},
                                    {&e.writes, Access::write},
                                    {&e.adds_to, Access::write},
                                    {&e.ends, Access::read}}) {
    for (const PackKey k : *set) {
      if (std::string wrong = residency_.begin_use({k, i.tier}, access); !wrong.empty()) {
        return wrong;
      }
      residency_.end_use({k, i.tier}, access);
    }
  }
  if (std::string wrong = within_budgets(); !wrong.empty()) {
    return wrong;
  }
  for (const PackKey k : e.ends) {
    if (std::string wrong = residency_.destroy({k, i.tier}); !wrong.empty()) {
      return wrong;
    }
    bytes_[i.tier] -= size(k);
  }
  return {};
}

std::string ReplicaCheck::finish() {
  if (std::string wrong = complete_moves(static_cast<int>(p_.step.size())); !wrong.empty()) {
    return wrong;
  }
  for (const Instruction* const move : running_on_) {
    std::string wrong = residency_.finish(*move);
    if (wrong.empty() && move->op == Op::fetch) {
      wrong = residency_.destroy({move->key(), move->tier});
    }
    if (!wrong.empty()) {
      return wrong;
    }
  }
  std::set<Replica> expected(p_.homes.begin(), p_.homes.end());
  for (const PackKey k : p_.residents) {
    expected.insert({k});
  }
  for (const Replica& replica : residency_.replicas()) {
    if (!expected.contains(replica)) {
      return to_string(replica) + " is left over";
    }
  }
  for (const Replica& replica : expected) {
    if (!residency_.settled(replica)) {
      return to_string(replica) + " is gone at the end";
    }
  }
  return {};
}

}  // namespace strata
