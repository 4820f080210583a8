#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/communicator.h"
#include "core/error.h"
#include "launch/sharding.h"

namespace strata::launch {

/// A failure that every rank knows of, so that all end in order with its exit code.
class AgreedError : public Error {
 public:
  AgreedError(const Error& error, bool ours) : Error(error), ours_(ours) {}
  /// Whether it happened here and this rank is the first one to which it did: who tells it.
  bool ours() const { return ours_; }

 private:
  bool ours_;
};

/// Runs `work`; where it throws on some ranks, throws AgreedError on all of them. Collective;
/// `work` is not, since a rank that fails would be missed by the others.
void together(Communicator& ranks, const std::function<void()>& work);

/// The text of rank 0, on every rank. Collective.
std::string text_of_first(Communicator& ranks, const std::string& mine);

/// Runs `body` with the ranks that a launcher started, or with this process as the only one, and
/// returns what it returns. Errors of a run of several ranks are told once and end all of them:
/// their exit code is that of the first one that failed.
int with_ranks(double timeout_seconds, const std::function<int(Communicator&)>& body);

/// Of this rank, as far as plans need it.
RankPlace place_of(const Communicator& ranks);

/// Whether this process speaks for its run before ranks have met: alone, or the first of its
/// machine.
bool speaks_first();

/// Throws config where a launcher has started several ranks of `command`, which has work for one.
void require_one_rank(std::string_view command);

/// What a rank gets when the cores of this machine are divided among its ranks; all of them for a
/// process alone.
int fair_cores();

/// Divides the cores among the ranks of a machine; `threads` > 0 says how many a rank is to use.
/// Warns when a launcher has bound ranks to fewer cores than they could have. Collective.
void share_cores(Communicator& ranks, std::int64_t threads);

}  // namespace strata::launch
