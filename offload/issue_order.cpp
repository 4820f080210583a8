#include "offload/issue_order.h"

#include <algorithm>
#include <array>
#include <map>

namespace strata::offload {

std::vector<bool> running(const Program& program, Outcomes outcomes) {
  std::vector<bool> all;
  bool decided = false;
  for (const Instruction& i : program.step) {
    all.push_back(runs(program, i, decided, outcomes));
    decided = i.op == Op::decide || (decided && i.op != Op::end);  // steps may follow each other
  }
  return all;
}

namespace {

/// Moves by the instruction that waits for them.
class DueMoves {
 public:
  explicit DueMoves(std::size_t count) : due_(count + 1) {}
  void add(const Instruction& move, int at) {
    due_[static_cast<std::size_t>(due(move, at))].push_back(at);
  }
  const std::vector<int>& at(std::size_t index) const { return due_[index]; }

 private:
  std::vector<std::vector<int>> due_;
};

/// The last transfer of each link that takes time: the next one of the link comes after it.
using LastOfLink = std::map<Link, int>;

void append(std::vector<int>& to, const LastOfLink& moves) {
  for (const auto& [link, index] : moves) {
    to.push_back(index);
  }
}

}  // namespace

Waits in_order(const Program& program, const std::vector<bool>& runs) {
  Waits waits;
  DueMoves due_moves(program.step.size());
  LastOfLink last;
  std::vector<int> now, before;  // what was waited for since, and with, the last instruction
  for (std::size_t k = 0; k < program.step.size(); ++k) {
    const Instruction& i = program.step[k];
    const auto& due_here = due_moves.at(k);
    now.insert(now.end(), due_here.begin(), due_here.end());
    before = now;
    if (!is_move(i.op) || !runs[k]) {
      now = {static_cast<int>(k)};
    } else {
      const auto previous = last.find({i.source, i.tier});
      if (previous != last.end()) {
        before.push_back(previous->second);
      }
      if (!i.clean) {
        last[{i.source, i.tier}] = static_cast<int>(k);
      }
      due_moves.add(i, static_cast<int>(k));
    }
    waits.add(before);
  }
  return waits;
}

namespace {

/// Follows a program whose instructions run on two resources.
class TwoQueues {
 public:
  TwoQueues(const Program& program, const std::vector<bool>& runs)
      : program_(program), runs_(runs), due_moves_(program.step.size()) {
    for (std::size_t k = program.step.size(); k-- > 0;) {
      const int after = ends_.empty() ? static_cast<int>(program.step.size()) : ends_.back();
      ends_.push_back(program.step[k].op == Op::end ? static_cast<int>(k) : after);
    }
    std::ranges::reverse(ends_);
  }

  Waits run() {
    Waits waits;
    for (std::size_t k = 0; k < program_.step.size(); ++k) {
      const Instruction& i = program_.step[k];
      before_ = due_moves_.at(k);
      open_gates(i);
      if (!runs_[k]) {
        until_next_.insert(until_next_.end(), before_.begin(), before_.end());
        before_.clear();
        wait_for(last_[queue_of(i.tier)]);
      } else if (is_move(i.op)) {
        transfer(i, static_cast<int>(k));
      } else {
        compute(i, static_cast<int>(k));
      }
      waits.add(before_);
    }
    return waits;
  }

 private:
  static constexpr int kNone = -1;
  /// 0: the device, 1: the host cores; no instruction runs elsewhere.
  static std::size_t queue_of(Tier tier) { return tier == Tier() ? 0 : 1; }
  void wait_for(int index) {
    if (index != kNone) {
      before_.push_back(index);
    }
  }

  /// What is due leaves room in the tier that it came from to the transfers that follow, and, if it
  /// is the host that it is due for, to what the device creates.
  void open_gates(const Instruction& by) {
    for (const int m : before_) {
      const Instruction& move = program_.step[static_cast<std::size_t>(m)];
      if (move.op != Op::fetch) {
        left_[move.source][{move.source, move.tier}] = m;
      }
      if (move.source == Tier() && !is_move(by.op) && by.tier != Tier()) {
        gone_before_ = gone_.block == by.block ? gone_before_ : gone_.moves;
        gone_.moves = gone_.block == by.block ? gone_.moves : std::vector<int>{};
        gone_.block = by.block;
        gone_.moves.push_back(m);
      }
    }
  }
  void transfer(const Instruction& i, int k) {
    until_next_.insert(until_next_.end(), before_.begin(), before_.end());
    const Link link{i.source, i.tier};
    const auto previous = last_of_link_.find(link);
    wait_for(previous == last_of_link_.end() ? kNone : previous->second);
    if (i.tier == Tier()) {
      wait_for(last_[0]);
    } else if (i.tier.kind != TierKind::nvme) {
      wait_for(host_before_);
    }
    append(before_, left_[i.tier]);
    // The device writes in the order of the program; of the host's instructions only those of the
    // block write what is copied.
    if (i.source == Tier()) {
      wait_for(last_[0]);
    } else if (const auto at = last_of_block_.find(i.block); at != last_of_block_.end()) {
      wait_for(at->second);
    }
    if (const auto at = brought_.find({i.key(), i.source}); at != brought_.end()) {
      wait_for(at->second);
    }
    brought_[{i.key(), i.tier}] = k;
    if (!i.clean) {
      last_of_link_[link] = k;
    }
    if (!i.clean && due(i, k) <= ends_[static_cast<std::size_t>(k)]) {
      last_of_step_[link] = k;
    }
    due_moves_.add(i, k);
  }
  void compute(const Instruction& i, int k) {
    before_.insert(before_.end(), until_next_.begin(), until_next_.end());
    until_next_.clear();
    const std::size_t queue = queue_of(i.tier);
    wait_for(last_[queue]);
    if (queue == 1) {
      const auto own = decided_.find(i.block);
      wait_for(own == decided_.end() ? kNone : own->second);
      const auto of_all = decided_.find(-1);
      wait_for(of_all == decided_.end() ? kNone : of_all->second);
      host_before_ = i.block == host_block_ ? host_before_ : last_[1];
      host_block_ = i.block;
      last_of_block_[i.block] = k;
    } else {
      before_.insert(before_.end(), gone_before_.begin(), gone_before_.end());
    }
    if (i.op == Op::end) {
      wait_for(last_[1]);
      append(before_, last_of_step_);
    }
    if (i.op == Op::decide) {
      decided_[i.block] = k;
    }
    last_[queue] = k;
  }

  const Program& program_;
  const std::vector<bool>& runs_;
  DueMoves due_moves_;
  std::array<int, 2> last_{kNone, kNone};
  // Host and device may be one block apart: bytes for the next block come while the host works on
  // one, and the device goes on to the next while those of one leave.
  int host_block_ = kNone, host_before_ = kNone;  // the last instruction of the block before
  struct Gone {
    int block = kNone;
    std::vector<int> moves;
  } gone_;
  std::vector<int> gone_before_;
  std::map<int, int> last_of_block_, decided_;
  std::map<Tier, LastOfLink> left_;
  std::map<Replica, int> brought_;
  LastOfLink last_of_link_, last_of_step_;  // the latter does not run on into the next step
  std::vector<int> ends_;                   // by instruction: the end of its step
  std::vector<int> before_;                 // of the instruction at hand
  std::vector<int> until_next_;  // due at a transfer: the instruction behind it waits as well
};

}  // namespace

Waits beside_device(const Program& program, const std::vector<bool>& runs) {
  return TwoQueues(program, runs).run();
}

}  // namespace strata::offload
