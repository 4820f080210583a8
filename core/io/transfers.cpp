#include "core/io/transfers.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "core/io/errors.h"

namespace strata::io {
namespace {

// A cancelled operation is given up when it stays silent for this long.
constexpr std::chrono::milliseconds kCancelTime{100};

Error failure(const Operation& operation,
              const std::string& path,
              Trouble trouble,
              int error_number,
              const Patience& patience) {
  const bool reading = operation.direction == Direction::read;
  const std::string what = fmt::format("{} of {} bytes at offset {}",
                                       reading ? "read" : "write",
                                       operation.bytes.size(),
                                       operation.offset);
  switch (trouble) {
    case Trouble::file_ends:
      return Error(
          Errc::io,
          fmt::format("io: read of '{}' needed {} more bytes at offset {}, but the file ends "
                      "there: it is truncated or still being written",
                      path,
                      operation.bytes.size(),
                      operation.offset));
    case Trouble::no_progress:
      return Error(Errc::io,
                   fmt::format("io: {} of '{}' came no further in {} tries: each moved less than "
                               "{} bytes",
                               what,
                               path,
                               patience.idle_tries,
                               patience.alignment));
    case Trouble::no_answer:
      return Error(Errc::io,
                   fmt::format("io: {} of '{}' had no answer for {} ms and was given up: the "
                               "device or the network below it hangs",
                               what,
                               path,
                               patience.timeout.count()));
    default:
      return io_error(path, what, error_number);
  }
}

bool of_device(int error_number) {
  return error_number == EIO || error_number == ENODEV || error_number == EREMOTEIO;
}

}  // namespace

Ticket Transfers::add(Request request) {
  const Ticket ticket = ++last_;
  Entry& entry = entries_[ticket];
  entry.request = std::move(request);
  entry.outcome.ticket = ticket;
  const std::span<std::byte> bytes = entry.request.bytes;
  const auto block = static_cast<std::size_t>(block_bytes_);
  for (std::size_t begin = 0; begin < bytes.size(); begin += block) {
    waiting_.push_back({.ticket = ticket,
                        .direction = entry.request.direction,
                        .fd = entry.request.fd,
                        .offset = entry.request.offset + static_cast<std::int64_t>(begin),
                        .bytes = bytes.subspan(begin, std::min(block, bytes.size() - begin))});
    ++entry.open;
  }
  unfinished_ += entry.open > 0 ? 1 : 0;
  if (entry.open == 0) {
    finished_.push_back(ticket);
  }
  return ticket;
}

bool Transfers::waiting(Clock::time_point now) const {
  return !waiting_.empty() ||
         std::any_of(later_.begin(), later_.end(), [&](const Later& l) { return l.at <= now; });
}

std::optional<Operation> Transfers::next(Clock::time_point now) {
  for (std::size_t i = 0; i < later_.size();) {
    if (later_[i].at <= now) {
      waiting_.push_front(later_[i].operation);
      later_.erase(later_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  while (!waiting_.empty()) {
    Operation operation = waiting_.front();
    waiting_.pop_front();
    Entry& entry = entries_.at(operation.ticket);
    if (entry.outcome.trouble == Trouble::none) {
      operation.id = ++last_id_;
      flying_.emplace(operation.id, Flight{operation, now});
      return operation;
    }
    close(operation.ticket, entry);  // the rest of a failed request is not started
  }
  return std::nullopt;
}

void Transfers::complete(std::uint64_t id, std::int64_t result, Clock::time_point now) {
  const auto flight = flying_.find(id);
  if (flight == flying_.end()) {
    --lost_;
    return;
  }
  const Operation operation = flight->second.operation;
  if (fault_) {
    Request seen = entries_.at(operation.ticket).request;
    seen.offset = operation.offset;
    seen.bytes = operation.bytes;
    result = fault_(seen, result);
    if (result == kNoAnswer) {
      flight->second.answered = true;
      return;
    }
  }
  const bool cancelled = flight->second.cancelled;
  flying_.erase(flight);
  if (result == static_cast<std::int64_t>(operation.bytes.size())) {
    close(operation.ticket, entries_.at(operation.ticket));
  } else if (result > 0) {
    again_from(operation, result);
  } else if (result == -ECANCELED && cancelled) {
    fail(operation, Trouble::no_answer, ETIMEDOUT);
  } else if (result == 0 && operation.direction == Direction::read) {
    fail(operation, Trouble::file_ends, 0);
  } else {
    refused(operation, result == 0 ? ENOSPC : static_cast<int>(-result), now);
  }
}

void Transfers::again_from(const Operation& operation, std::int64_t moved) {
  ++counts_.short_transfers;
  const std::int64_t kept = moved / patience_.alignment * patience_.alignment;
  Operation rest = operation;
  rest.offset += kept;
  rest.bytes = rest.bytes.subspan(static_cast<std::size_t>(kept));
  rest.idle_tries = kept > 0 ? 0 : operation.idle_tries + 1;
  if (rest.idle_tries >= patience_.idle_tries) {
    fail(operation, Trouble::no_progress, 0);
  } else {
    waiting_.push_front(rest);
  }
}

void Transfers::refused(Operation operation, int error_number, Clock::time_point now) {
  if (error_number == EINTR || error_number == EAGAIN || error_number == EBUSY) {
    const int tries = ++operation.busy_tries;
    if (error_number != EINTR && tries > patience_.busy_tries) {
      return fail(operation, Trouble::busy, error_number);
    }
    const auto pause = patience_.first_pause * (std::int64_t{1} << std::min(tries - 1, 20));
    return again(operation, now + std::min(pause, patience_.longest_pause));
  }
  const auto pauses = static_cast<int>(patience_.device_pauses.size());
  if (of_device(error_number) && operation.device_tries < pauses) {
    const int tries = operation.device_tries++;
    return again(operation, now + patience_.device_pauses[static_cast<std::size_t>(tries)]);
  }
  fail(operation, Trouble::refused, error_number);
}

void Transfers::again(Operation operation, Clock::time_point at) {
  ++counts_.retries;
  later_.push_back({at, operation});
}

void Transfers::fail(const Operation& operation, Trouble trouble, int error_number) {
  Entry& entry = entries_.at(operation.ticket);
  if (entry.outcome.trouble == Trouble::none) {
    entry.outcome.trouble = trouble;
    entry.outcome.error_number = error_number;
    entry.outcome.error = std::make_exception_ptr(
        failure(operation, entry.request.path, trouble, error_number, patience_));
  }
  close(operation.ticket, entry);
}

Clock::time_point Transfers::due() const {
  Clock::time_point at = Clock::time_point::max();
  for (const Later& later : later_) {
    at = std::min(at, later.at);
  }
  if (patience_.timeout.count() > 0) {
    for (const auto& [id, flight] : flying_) {
      const auto extra = flight.cancelled ? kCancelTime : std::chrono::milliseconds(0);
      at = std::min(at, flight.started + patience_.timeout + extra);
    }
  }
  return at;
}

std::vector<std::uint64_t> Transfers::give_up(Clock::time_point now) {
  std::vector<std::uint64_t> cancel;
  if (patience_.timeout.count() == 0) {
    return cancel;
  }
  for (auto at = flying_.begin(); at != flying_.end();) {
    Flight& flight = at->second;
    const auto limit = flight.started + patience_.timeout;
    if (!flight.cancelled && now >= limit) {
      flight.cancelled = true;
      cancel.push_back(at->first);
    }
    if (now >= limit + kCancelTime) {
      lost_ += flight.answered ? 0 : 1;
      const Operation operation = flight.operation;
      at = flying_.erase(at);
      fail(operation, Trouble::no_answer, ETIMEDOUT);
    } else {
      ++at;
    }
  }
  return cancel;
}

void Transfers::close(Ticket ticket, Entry& entry) {
  if (--entry.open == 0) {
    --unfinished_;
    finished_.push_back(ticket);
  }
}

bool Transfers::done(Ticket ticket) const {
  const auto found = entries_.find(ticket);
  if (found == entries_.end()) {
    throw Error(Errc::internal, fmt::format("io: ticket {} was never given or is used up", ticket));
  }
  return found->second.open == 0;
}

void Transfers::collect(Ticket ticket) {
  const std::exception_ptr error = entries_.at(ticket).outcome.error;
  entries_.erase(ticket);
  std::erase(finished_, ticket);
  if (error != nullptr) {
    std::rethrow_exception(error);
  }
}

void Transfers::collect_all() {
  const std::map<Ticket, Entry> finished = std::exchange(entries_, {});
  finished_.clear();
  for (const auto& [ticket, entry] : finished) {
    if (entry.outcome.error != nullptr) {
      std::rethrow_exception(entry.outcome.error);
    }
  }
}

std::optional<Outcome> Transfers::collect_next() {
  if (finished_.empty()) {
    return std::nullopt;
  }
  const Ticket ticket = finished_.front();
  finished_.pop_front();
  const auto found = entries_.find(ticket);
  const Outcome outcome = found->second.outcome;
  entries_.erase(found);
  return outcome;
}

}  // namespace strata::io
