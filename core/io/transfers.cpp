#include "core/io/transfers.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "core/io/errors.h"

namespace strata::io {
namespace {

Error failure(const Operation& operation, std::int64_t result) {
  const Request& request = *operation.owner;
  const bool reading = request.direction == Direction::read;
  if (result == 0 && reading) {
    return Error(
        Errc::io,
        fmt::format("io: read of '{}' needed {} more bytes at offset {}, but the file ends "
                    "there: it is truncated or still being written",
                    request.path,
                    operation.bytes.size(),
                    operation.offset));
  }
  return io_error(request.path,
                  fmt::format("{} of {} bytes at offset {}",
                              reading ? "read" : "write",
                              operation.bytes.size(),
                              operation.offset),
                  result == 0 ? EIO : static_cast<int>(-result));
}

}  // namespace

Ticket Transfers::add(Request request) {
  const Ticket ticket = ++last_;
  Entry& entry = entries_[ticket];
  entry.request = std::move(request);
  const std::span<std::byte> bytes = entry.request.bytes;
  const auto block = static_cast<std::size_t>(block_bytes_);
  for (std::size_t begin = 0; begin < bytes.size(); begin += block) {
    waiting_.push_back({ticket,
                        &entry.request,
                        entry.request.offset + static_cast<std::int64_t>(begin),
                        bytes.subspan(begin, std::min(block, bytes.size() - begin))});
    ++entry.open;
  }
  unfinished_ += entry.open > 0 ? 1 : 0;
  return ticket;
}

std::optional<Operation> Transfers::next() {
  while (!waiting_.empty()) {
    const Operation operation = waiting_.front();
    waiting_.pop_front();
    Entry& entry = entries_.at(operation.ticket);
    if (entry.error == nullptr) {
      return operation;
    }
    close(entry);  // the rest of a failed request is not started
  }
  return std::nullopt;
}

void Transfers::complete(const Operation& operation, std::int64_t result) {
  Entry& entry = entries_.at(operation.ticket);
  if (fault_) {
    Request seen = *operation.owner;
    seen.offset = operation.offset;
    seen.bytes = operation.bytes;
    result = fault_(seen, result);
  }
  const auto size = static_cast<std::int64_t>(operation.bytes.size());
  if (result == -EINTR || result == -EAGAIN) {
    waiting_.push_back(operation);
  } else if (result > 0 && result < size) {
    Operation rest = operation;
    rest.offset += result;
    rest.bytes = rest.bytes.subspan(static_cast<std::size_t>(result));
    waiting_.push_front(rest);
  } else {
    if (result <= 0 && entry.error == nullptr) {
      entry.error = std::make_exception_ptr(failure(operation, result));
    }
    close(entry);
  }
}

void Transfers::close(Entry& entry) {
  if (--entry.open == 0) {
    --unfinished_;
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
  const std::exception_ptr error = entries_.at(ticket).error;
  entries_.erase(ticket);
  if (error != nullptr) {
    std::rethrow_exception(error);
  }
}

void Transfers::collect_all() {
  const std::map<Ticket, Entry> finished = std::exchange(entries_, {});
  for (const auto& [ticket, entry] : finished) {
    if (entry.error != nullptr) {
      std::rethrow_exception(entry.error);
    }
  }
}

}  // namespace strata::io
