#include "core/rendezvous.h"

#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace strata {
namespace {

/// Whether micro-batches are shared out in programs of this kind.
bool computes(ProgramKind kind) {
  return kind != ProgramKind::snapshot && kind != ProgramKind::load && kind != ProgramKind::flush;
}

bool is_collective(Op op) {
  return op == Op::gather || op == Op::reduce || op == Op::decide || op == Op::stats ||
         op == Op::publish;
}

/// Runs the ranks' collectives, sends and receives against each other: sends are buffered, the rest
/// waits.
class Rendezvous {
 public:
  Rendezvous(std::span<const Program> ranks, Outcomes outcomes)
      : ranks_(ranks), at_(ranks.size(), 0) {
    for (const Program& p : ranks) {
      std::vector<int> talk;
      bool decided = false;
      for (std::size_t k = 0; k < p.step.size(); ++k) {
        const Instruction& i = p.step[k];
        const bool talks = is_collective(i.op) || i.op == Op::send || i.op == Op::recv;
        if (talks && runs(p, i, decided, outcomes)) {
          talk.push_back(static_cast<int>(k));
        }
        decided = decided || i.op == Op::decide;
      }
      talk_.push_back(std::move(talk));
    }
  }

  std::optional<Diagnosis> run() {
    while (advance_point_to_point() || advance_collective()) {
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (const Instruction* i = next(r)) {
        return Diagnosis{
            static_cast<int>(r),
            talk_[r][at_[r]],
            std::string(to_string(i->op)) + " waits for ever: the other ranks never meet it"};
      }
    }
    if (!in_flight_.empty()) {
      return Diagnosis{std::get<0>(*in_flight_.begin()), -1, "a send is never received"};
    }
    return std::nullopt;
  }

 private:
  const Instruction* next(std::size_t r) const {
    return at_[r] == talk_[r].size() ? nullptr
                                     : &ranks_[r].step[static_cast<std::size_t>(talk_[r][at_[r]])];
  }

  bool advance_point_to_point() {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      const Instruction* i = next(r);
      if (i == nullptr || is_collective(i->op)) {
        continue;
      }
      const int me = static_cast<int>(r);
      if (i->op == Op::send) {
        in_flight_.insert({me, i->peer, i->key()});
      } else {
        const auto it = in_flight_.find({i->peer, me, i->key()});
        if (it == in_flight_.end()) {
          continue;
        }
        in_flight_.erase(it);
      }
      ++at_[r];
      return true;
    }
    return false;
  }

  bool advance_collective() {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      const Instruction* i = next(r);
      const Instruction* first = next(0);
      if (i == nullptr || !is_collective(i->op) ||
          std::tie(i->op, i->block, i->phase) != std::tie(first->op, first->block, first->phase)) {
        return false;
      }
    }
    for (std::size_t& at : at_) {
      ++at;
    }
    return true;
  }

  std::span<const Program> ranks_;
  std::vector<std::vector<int>> talk_;
  std::vector<std::size_t> at_;
  std::multiset<std::tuple<int, int, PackKey>> in_flight_;
};

}  // namespace

std::optional<Diagnosis> check_ranges(std::span<const Program> ranks) {
  int expected = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (!computes(ranks[r].kind)) {
      continue;
    }
    if (ranks[r].first_micro_batch != expected || ranks[r].last_micro_batch <= expected) {
      return Diagnosis{static_cast<int>(r), -1, "its micro-batches do not follow the rank before"};
    }
    if (ranks[r].summation != ranks[0].summation ||
        ranks[r].micro_batches != ranks[0].micro_batches) {
      return Diagnosis{static_cast<int>(r), -1, "it sums in another order than rank 0"};
    }
    expected = ranks[r].last_micro_batch;
  }
  if (expected != ranks[0].micro_batches && computes(ranks[0].kind)) {
    return Diagnosis{-1, -1, "the ranks' micro-batches are not the whole step"};
  }
  return std::nullopt;
}

std::optional<Diagnosis> check_meetings(std::span<const Program> ranks, Outcomes outcomes) {
  return Rendezvous(ranks, outcomes).run();
}

}  // namespace strata
