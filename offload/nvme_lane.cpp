#include "offload/nvme_lane.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/memory.h"

namespace strata::offload {
namespace {

constexpr std::chrono::milliseconds kBrokenPause{10};  // a ring that is broken stays so
constexpr std::chrono::milliseconds kLookForPosts{2};
constexpr int kReadsAgain = 2;  // after a wrong checksum

std::size_t index_of(io::Direction direction) {
  return direction == io::Direction::read ? 0 : 1;
}

bool of_device(int error_number) {
  return error_number == EIO || error_number == ENODEV || error_number == EREMOTEIO;
}

std::string reason_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& failure) {
    return failure.what();
  }
}

}  // namespace

NvmeLane::NvmeLane(SwapFile& file, LaneConfig config)
    : file_(file),
      config_(std::move(config)),
      chunk_bytes_(std::max(config_.settings.block_bytes, config_.check_bytes)),
      pace_{Pace(config_.settings.pace_read), Pace(config_.settings.pace_write)} {
  chunk_bytes_ = chunk_bytes_ / config_.check_bytes * config_.check_bytes;
  direct_ = file_.direct_fd() >= 0;
  config_.queue.files.push_back(file_.buffered_fd());
  if (direct_) {
    config_.queue.files.push_back(file_.direct_fd());
  } else if (!file_.refusal().empty()) {
    stop_direct(file_.refusal());
  }
  const std::int64_t alignment = file_.alignment();
  config_.queue.block_bytes = (config_.queue.block_bytes + alignment - 1) / alignment * alignment;
  config_.queue.patience.alignment = alignment;
  queue_ = io::make_queue(config_.queue);
  if (direct_) {
    try_direct();
  }
  if (config_.shared_pace) {
    arbiter_.emplace(config_.settings.directory);
    pace_[0].share(*arbiter_, 0);
    pace_[1].share(*arbiter_, 1);
  }
  posted_.reserve(64);
  thread_ = std::jthread([this] { run(); });
}

NvmeLane::~NvmeLane() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  queue_->wake();
}

/// Finds out now, before anything is written, what a file system grants in name only.
void NvmeLane::try_direct() {
  const std::int64_t size = file_.alignment();
  if (file_.size_bytes() < size) {
    return;
  }
  const Arena page(Tier{TierKind::host, 0}, size, size);
  queue_->submit(
      {.fd = file_.direct_fd(), .bytes = page.range(0, size), .path = file_.path().string()});
  const std::optional<io::Outcome> direct = queue_->next_finished(Clock::time_point::max());
  if (direct->trouble == io::Trouble::none) {
    return;
  }
  if (direct->error_number == EINVAL) {
    queue_->submit(
        {.fd = file_.buffered_fd(), .bytes = page.range(0, size), .path = file_.path().string()});
    if (queue_->next_finished(Clock::time_point::max())->trouble == io::Trouble::none) {
      return stop_direct("Invalid argument");
    }
  }
  std::rethrow_exception(direct->error);
}

void NvmeLane::stop_direct(std::string_view reason) {
  const std::string text =
      fmt::format("nvme: '{}' refuses direct transfers at multiples of {} bytes ({})",
                  file_.path().string(),
                  file_.alignment(),
                  reason);
  if (!config_.allow_buffered) {
    throw Error(Errc::config, text + "; choose another directory or allow the page cache");
  }
  direct_ = false;
  config_.warn(text + "; its bytes pass through the page cache");
}

void NvmeLane::post(LaneTransfer& transfer) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(&transfer);
  }
  queue_->wake();
}

void NvmeLane::set_pace(double read, double write) {
  {
    const std::lock_guard lock(mutex_);
    pace_[0].set(read);
    pace_[1].set(write);
  }
  queue_->wake();
}

PathCounters NvmeLane::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void NvmeLane::run() {
  while (true) {
    const bool stopping = take_posted();
    start_chunks();
    note_busy(Clock::now());
    if (stopping && parts_[0].empty() && parts_[1].empty()) {
      return;
    }
    try {
      const std::int64_t answers = answers_until_news();
      const bool full = flying_operations_[0] + flying_operations_[1] >= config_.queue.depth;
      // What is posted during a sleep for several answers could start at once if there are slots.
      const Clock::time_point until =
          full || answers <= 1 ? due_ : std::min(due_, Clock::now() + kLookForPosts);
      std::optional<io::Outcome> outcome = queue_->next_finished(until, answers);
      if (outcome) {
        take(*outcome);
      }
    } catch (...) {  // only a broken ring comes here: nothing under way will be heard of again
      fail_path(std::current_exception());
      for (auto& [ticket, chunk] : std::exchange(flying_, {})) {
        --chunk.part->open;
        spoil(*chunk.part, {PartEnd::Kind::path_failed, failure_});
        settle(chunk.part);
      }
      flying_operations_ = {};
      std::this_thread::sleep_for(kBrokenPause);
    }
  }
}

bool NvmeLane::take_posted() {
  const std::lock_guard lock(mutex_);
  for (LaneTransfer* transfer : posted_) {
    parts_[index_of(transfer->direction)].push_back(
        {.transfer = transfer, .left_bytes = bytes_here(*transfer->slot), .end = {}});
  }
  posted_.clear();
  return stop_;
}

std::int64_t NvmeLane::bytes_here(const NvmeLayout::Slot& slot) const {
  std::int64_t sum = 0;
  for (std::size_t unit = 0; unit < slot.units.size(); ++unit) {
    const auto begin = static_cast<std::int64_t>(unit) * config_.stripe_bytes;
    sum += slot.units[unit].path == config_.path
               ? std::min(config_.stripe_bytes, slot.size_bytes - begin)
               : 0;
  }
  return sum;
}

/// No part can end before so many operations have.
std::int64_t NvmeLane::answers_until_news() const {
  std::int64_t least = chunk_bytes_;
  bool first = true;
  for (const Parts& parts : parts_) {
    for (const Part& part : parts) {
      least = first ? part.left_bytes : std::min(least, part.left_bytes);
      first = false;
    }
  }
  return least / chunk_bytes_;
}

/// Busy time counts while something is posted and not finished.
void NvmeLane::note_busy(Clock::time_point now) {
  const bool busy = !parts_[0].empty() || !parts_[1].empty();
  const io::QueueCounts counts = queue_->counts();
  const std::lock_guard lock(mutex_);
  if (busy_) {
    counters_.busy_seconds += std::chrono::duration<double>(now - busy_since_).count();
  }
  busy_ = busy;
  busy_since_ = now;
  counters_.retries = counts.retries;
  counters_.short_io = counts.short_transfers;
  counters_.kernel_entries = counts.kernel_entries;
}

std::int64_t NvmeLane::operations(std::int64_t size_bytes) const {
  const std::int64_t block = config_.queue.block_bytes;
  return (size_bytes + block - 1) / block;
}

void NvmeLane::start_chunks() {
  due_ = Clock::time_point::max();
  const std::int64_t depth = config_.queue.depth, quarter = std::max<std::int64_t>(1, depth / 4);
  bool more = true;
  while (more && flying_operations_[0] + flying_operations_[1] < depth) {
    const bool reads = startable(0) != parts_[0].end();
    const bool writes = startable(1) != parts_[1].end();
    // With one slot there is no quarter: turn and turn about.
    const bool write_first =
        flying_operations_[1] < quarter && !(depth == 1 && wrote_last_ && reads);
    const std::size_t first = writes && write_first ? 1 : 0;
    more = start_one(first) || start_one(1 - first);
  }
}

/// The first part with chunks to start; what is found to have none is settled.
NvmeLane::Parts::iterator NvmeLane::startable(std::size_t direction) {
  Parts& parts = parts_[direction];
  for (auto part = parts.begin(); part != parts.end();) {
    const auto at = part++;
    if (failure_ != nullptr && at->end.kind == PartEnd::Kind::good) {
      spoil(*at, {PartEnd::Kind::path_failed, failure_});
    }
    if (!at->started) {
      Chunk chunk;
      if (at->end.kind == PartEnd::Kind::good && next_chunk(*at, chunk)) {
        return at;
      }
      at->started = true;
      settle(at);
    }
  }
  return parts.end();
}

bool NvmeLane::next_chunk(Part& part, Chunk& chunk) const {
  const NvmeLayout::Slot& slot = *part.transfer->slot;
  for (; part.unit < slot.units.size(); ++part.unit, part.at = 0) {
    const auto begin = static_cast<std::int64_t>(part.unit) * config_.stripe_bytes;
    const std::int64_t size = std::min(config_.stripe_bytes, slot.size_bytes - begin);
    if (slot.units[part.unit].path == config_.path && part.at < size) {
      chunk.begin = begin + part.at;
      chunk.size = std::min(chunk_bytes_, size - part.at);
      chunk.offset = slot.units[part.unit].offset + part.at;
      return true;
    }
  }
  return false;
}

/// Starts the next chunk of this direction, unless there is none or its time has not come.
bool NvmeLane::start_one(std::size_t direction) {
  const auto part = startable(direction);
  Chunk chunk;
  {
    const std::lock_guard lock(mutex_);
    if (part == parts_[direction].end()) {
      pace_[direction].rest();
      return false;
    }
    next_chunk(*part, chunk);
    const Clock::time_point now = Clock::now(), at = pace_[direction].when(chunk.size, now);
    if (at > now) {
      due_ = std::min(due_, at);
      return false;
    }
    pace_[direction].take(chunk.size);
  }
  part->at += chunk.size;
  ++part->open;
  Chunk following;
  part->started = !next_chunk(*part, following);
  chunk.part = part;
  // What does not fill a multiple of the alignment always goes through the page cache.
  chunk.buffered = !direct_ || chunk.size % file_.alignment() != 0;
  if (direction == 1) {
    LaneTransfer& transfer = *part->transfer;
    transfer.checks->note(chunk.begin,
                          transfer.bytes.subspan(static_cast<std::size_t>(chunk.begin),
                                                 static_cast<std::size_t>(chunk.size)));
  }
  wrote_last_ = direction == 1;
  submit(chunk);
  return true;
}

void NvmeLane::submit(const Chunk& chunk) {
  LaneTransfer& transfer = *chunk.part->transfer;
  const io::Ticket ticket =
      queue_->submit({.direction = transfer.direction,
                      .fd = chunk.buffered ? file_.buffered_fd() : file_.direct_fd(),
                      .offset = chunk.offset,
                      .bytes = transfer.bytes.subspan(static_cast<std::size_t>(chunk.begin),
                                                      static_cast<std::size_t>(chunk.size)),
                      .path = file_.path().string()});
  flying_.emplace(ticket, chunk);
  flying_operations_[index_of(transfer.direction)] += operations(chunk.size);
}

void NvmeLane::take(const io::Outcome& outcome) {
  const auto found = flying_.find(outcome.ticket);
  const Chunk chunk = found->second;
  flying_.erase(found);
  flying_operations_[index_of(chunk.part->transfer->direction)] -= operations(chunk.size);
  if (outcome.trouble == io::Trouble::none) {
    moved(chunk);
  } else {
    refused(chunk, outcome);
  }
}

void NvmeLane::moved(Chunk chunk) {
  LaneTransfer& transfer = *chunk.part->transfer;
  const bool reading = transfer.direction == io::Direction::read;
  const bool good = !reading || transfer.checks->agree(
                                    chunk.begin,
                                    transfer.bytes.subspan(static_cast<std::size_t>(chunk.begin),
                                                           static_cast<std::size_t>(chunk.size)));
  {
    const std::lock_guard lock(mutex_);
    (reading ? counters_.bytes_read : counters_.bytes_written) += chunk.size;
    ++(reading ? counters_.reads : counters_.writes);
    counters_.crc_failures += good ? 0 : 1;
  }
  if (chunk.diagnosis && direct_) {
    try {
      stop_direct("Invalid argument");
    } catch (...) {
      spoil(*chunk.part, {PartEnd::Kind::error, std::current_exception()});
    }
  }
  if (!good && chunk.reads_again < kReadsAgain) {
    ++chunk.reads_again;
    return submit(chunk);
  }
  if (!good) {
    spoil(*chunk.part,
          {PartEnd::Kind::bad_bytes,
           std::make_exception_ptr(Error(
               Errc::io,
               fmt::format("nvme: data lost: {}: bytes {} to {} of '{}' do not have the checksum "
                           "they were written with, read {} times",
                           transfer.name,
                           chunk.offset,
                           chunk.offset + chunk.size,
                           file_.path().string(),
                           kReadsAgain + 1)))});
  }
  --chunk.part->open;
  chunk.part->left_bytes -= chunk.size;
  settle(chunk.part);
}

void NvmeLane::refused(Chunk chunk, const io::Outcome& outcome) {
  const bool kernel = outcome.trouble == io::Trouble::refused;
  if (kernel && outcome.error_number == EINVAL && !chunk.buffered) {
    chunk.buffered = chunk.diagnosis = true;
    return submit(chunk);
  }
  PartEnd end{PartEnd::Kind::error, outcome.error};
  if (kernel && of_device(outcome.error_number)) {
    fail_path(outcome.error);
    end = {PartEnd::Kind::path_failed, failure_};
  } else if (kernel && (outcome.error_number == ENOSPC || outcome.error_number == EDQUOT)) {
    end.kind = PartEnd::Kind::path_full;
  } else {
    end.error = std::make_exception_ptr(
        Error(Errc::io,
              fmt::format("nvme: {}: {}", chunk.part->transfer->name, reason_of(outcome.error))));
  }
  --chunk.part->open;
  spoil(*chunk.part, std::move(end));
  settle(chunk.part);
}

/// The first trouble counts; nothing more of the part is started.
void NvmeLane::spoil(Part& part, PartEnd end) {
  if (part.end.kind == PartEnd::Kind::good) {
    part.end = std::move(end);
  }
}

void NvmeLane::settle(Parts::iterator part) {
  if (part->end.kind != PartEnd::Kind::good) {
    part->started = true;
  }
  if (part->started && part->open == 0) {
    LaneTransfer& transfer = *part->transfer;
    PartEnd end = std::move(part->end);
    parts_[index_of(transfer.direction)].erase(part);
    note_busy(Clock::now());
    config_.finished(transfer, config_.path, std::move(end));
  }
}

void NvmeLane::fail_path(const std::exception_ptr& error) {
  if (failure_ == nullptr) {
    failure_ = error;
    const std::lock_guard lock(mutex_);
    counters_.failed = true;
  }
}

}  // namespace strata::offload
