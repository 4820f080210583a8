#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/error.h"

namespace strata::checkpoint {

/// Tag of the manifest parts that travel to rank 0.
inline constexpr int kPartTag = 0x636b;

/// What `work` throws, kept instead of thrown: a rank that fails alone must still reach the vote.
/// Exceptions that are no Error become internal.
std::optional<Error> failure_of(const std::function<void()>& work) noexcept;

/// Every rank's number, in rank order.
std::vector<std::int64_t> gather(Communicator& ranks, std::int64_t mine);

/// Returns when every rank comes without a failure; otherwise throws on all of them: its own
/// failure where there is one, that of the first failing rank, named, elsewhere.
void vote(Communicator& ranks, const std::optional<Error>& failure);

/// Rank 0 works; its answer reaches all, or its failure is thrown on all. Answers are short (a
/// name).
std::string decide_on_first(Communicator& ranks, const std::function<std::string()>& work);

}  // namespace strata::checkpoint
