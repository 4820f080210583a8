#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/pack.h"
#include "core/program.h"

namespace strata {

/// Which replicas exist, which of them hold what was written last, who uses them and what is under
/// way between them. Validator and stores keep the same books. A transition that is not legal
/// changes nothing and says why; an empty text: done.
///
/// What always holds: a pack of which there are replicas has one with its latest bytes, or one that
/// they are on their way to; a writer is alone, with no transfer out of or into what it writes; a
/// replica ends only when nobody uses it and no transfer names it.
class Residency {
 public:
  /// A replica with data, before anything happens.
  void place(const Replica& replica);
  /// New bytes: what other replicas of the pack hold is outdated.
  [[nodiscard]] std::string create(const Replica& replica);
  [[nodiscard]] std::string destroy(const Replica& replica);
  /// Why its bytes cannot be used now, whoever else uses them; empty: they can.
  [[nodiscard]] std::string usable(const Replica& replica) const;
  /// Until end_use. Any number of readers, or one writer.
  [[nodiscard]] std::string begin_use(const Replica& replica, Access access);
  void end_use(const Replica& replica, Access access) noexcept;
  /// A fetch, evict, save or restore, and its completion.
  [[nodiscard]] std::string start(const Instruction& move);
  [[nodiscard]] std::string finish(const Instruction& move);

  bool exists(const Replica& replica) const { return find(replica) != nullptr; }
  std::vector<Replica> replicas() const;
  /// Whether it has the latest bytes and no transfer into or out of it is under way.
  bool settled(const Replica& replica) const;
  /// What is wrong with the whole, if something is.
  std::string violation() const;

 private:
  struct State {
    Replica replica;
    bool present = false;
    long version = 0;
    bool filling = false;  // a transfer into it is under way
    bool leaving = false;  // one out of it, at whose end it is gone
    int copied = 0;        // transfers out of it that leave it
    int readers = 0, writers = 0;
    bool idle() const { return !filling && !leaving && readers == 0 && writers == 0; }
  };
  State* find(const Replica& replica);
  const State* find(const Replica& replica) const;
  State& enter(const Replica& replica, long version);
  long& version_of(PackKey key);
  bool latest(const State& state) const;
  /// Whether another replica, of which no transfer takes the bytes away, has the latest ones.
  bool elsewhere(const Replica& replica) const;

  // In order. What was once there keeps its line, so that a step that repeats allocates nothing.
  std::vector<State> states_;
  std::vector<std::pair<PackKey, long>> versions_;
};

}  // namespace strata
