#include "offload/nvme_store.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "offload/nvme_state.h"

namespace strata::offload {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kPage = 4096;
constexpr std::size_t kNamesInMessage = 8;

/// What other paths can help with.
bool of_path(PartEnd::Kind kind) {
  return kind == PartEnd::Kind::path_failed || kind == PartEnd::Kind::path_full;
}

[[noreturn]] void misuse(const std::string& what) {
  throw Error(Errc::internal, "nvme: " + what);
}

}  // namespace

NvmeStore::State::Extent& NvmeStore::State::extent(int number) {
  if (number < 0 || static_cast<std::size_t>(number) >= extents_.size()) {
    misuse(fmt::format("there is no extent {}, there are {}", number, extents_.size()));
  }
  return extents_[static_cast<std::size_t>(number)];
}

NvmeStore::Ticket NvmeStore::State::post(io::Direction direction,
                                         int number,
                                         bool next,
                                         std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  Extent& of = extent(number);
  if (next && of.slots.size() < 2) {
    misuse(fmt::format("'{}' has one generation", of.name));
  }
  Slot& slot = of.slots[next ? 1 - of.current : of.current];
  if (static_cast<std::int64_t>(bytes.size()) != slot.layout.size_bytes ||
      reinterpret_cast<std::uintptr_t>(bytes.data()) % kPage != 0) {
    misuse(fmt::format("a transfer of '{}' needs {} bytes at a multiple of 4096, got {}",
                       of.name,
                       slot.layout.size_bytes,
                       bytes.size()));
  }
  Transfer& transfer = transfers_[++last_];
  transfer.ticket = last_;
  transfer.where = &slot;
  transfer.direction = direction;
  transfer.bytes = bytes;
  transfer.slot = &slot.layout;
  transfer.checks = &*slot.checks;
  transfer.name = of.name;
  ++unfinished_;
  slot.waiting.push_back(&transfer);
  start_ready(slot);
  return transfer.ticket;
}

/// Reads together, a write alone, in the order of posting.
void NvmeStore::State::start_ready(Slot& slot) {
  while (!slot.waiting.empty() && !slot.active_write) {
    Transfer& next = *slot.waiting.front();
    const bool write = next.direction == io::Direction::write;
    if (write && slot.active_reads > 0) {
      return;
    }
    slot.waiting.pop_front();
    (write ? slot.active_write = true, 0 : ++slot.active_reads);
    start(next);
  }
}

void NvmeStore::State::start(Transfer& transfer) {
  Slot& slot = *transfer.where;
  transfer.end = {};
  if (transfer.direction == io::Direction::write) {
    layout_->renew(slot.layout);
    slot.torn = true;
  } else if (slot.torn) {
    transfer.end = {
        PartEnd::Kind::error,
        std::make_exception_ptr(Error(
            Errc::io, fmt::format("nvme: data lost: {}: its last write failed", transfer.name)))};
    return finish(transfer);
  }
  std::uint64_t paths = 0;
  for (const NvmeLayout::Unit& unit : slot.layout.units) {
    paths |= std::uint64_t{1} << unit.path;
  }
  transfer.open_parts = std::popcount(paths);
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if ((paths >> i & 1) != 0) {
      lanes_[i]->post(transfer);
    }
  }
}

void NvmeStore::State::part_finished(Transfer& transfer, int path, PartEnd end) {
  const std::lock_guard lock(mutex_);
  if (end.kind == PartEnd::Kind::path_failed ||
      (end.kind == PartEnd::Kind::path_full && transfer.direction == io::Direction::write)) {
    layout_->close(path);
  }
  const bool first = transfer.end.kind == PartEnd::Kind::good;
  if (end.kind != PartEnd::Kind::good && (first || !of_path(end.kind))) {
    transfer.end = std::move(end);
    transfer.failed_path = path;
  }
  transfer.last_path = path;
  if (--transfer.open_parts > 0) {
    return;
  }
  if (transfer.end.kind != PartEnd::Kind::good && elsewhere(transfer)) {
    return start(transfer);
  }
  finish(transfer);
}

/// Whether a write whose path failed or is full can be done again without that path.
bool NvmeStore::State::elsewhere(Transfer& transfer) {
  if (transfer.direction != io::Direction::write || !of_path(transfer.end.kind)) {
    return false;
  }
  layout_->renew(transfer.where->layout);
  const auto& units = transfer.where->layout.units;
  return std::none_of(units.begin(), units.end(), [&](const NvmeLayout::Unit& unit) {
    return layout_->closed(unit.path);
  });
}

void NvmeStore::State::finish(Transfer& transfer) {
  Slot& slot = *transfer.where;
  const bool good = transfer.end.kind == PartEnd::Kind::good;
  if (transfer.direction == io::Direction::write) {
    slot.active_write = false;
    slot.written = slot.written || good;
    slot.torn = !good;
    slot.fresh = good;
  } else {
    --slot.active_reads;
  }
  if (!good) {
    transfer.end.error = failure(transfer);
  }
  transfer.done = true;
  --unfinished_;
  finished_.notify_all();
  start_ready(slot);
}

/// What the waiter is told.
std::exception_ptr NvmeStore::State::failure(const Transfer& transfer) const {
  if (!of_path(transfer.end.kind)) {
    return transfer.end.error;
  }
  const std::string directory =
      config_.paths[static_cast<std::size_t>(transfer.failed_path)].directory.string();
  std::string reason;
  try {
    std::rethrow_exception(transfer.end.error);
  } catch (const std::exception& error) {
    reason = error.what();
  }
  if (transfer.direction == io::Direction::read) {
    const std::string names = lost_names(transfer.failed_path);
    return std::make_exception_ptr(
        Error(Errc::io,
              fmt::format("nvme: data lost: {}: the only copy is in '{}', which failed: {}",
                          names.empty() ? std::string(transfer.name) : names,
                          directory,
                          reason)));
  }
  return std::make_exception_ptr(
      Error(Errc::io,
            fmt::format("nvme: {} of {} bytes has no place: '{}' {} and {} bytes are free on other "
                        "paths: {}",
                        transfer.name,
                        transfer.bytes.size(),
                        directory,
                        transfer.end.kind == PartEnd::Kind::path_full ? "is full" : "failed",
                        layout_->free_bytes(),
                        reason)));
}

std::string NvmeStore::State::lost_names(int path) const {
  std::vector<std::string_view> names;
  for (const Extent& extent : extents_) {
    const Slot& slot = extent.slots[extent.current];
    const auto& units = slot.layout.units;
    if (slot.written && std::any_of(units.begin(), units.end(), [&](const NvmeLayout::Unit& unit) {
          return unit.path == path;
        })) {
      names.push_back(extent.name);
    }
  }
  const std::size_t shown = std::min(names.size(), kNamesInMessage);
  const std::string list = fmt::format(
      "{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  return shown == names.size() ? list : fmt::format("{} and {} more", list, names.size() - shown);
}

void NvmeStore::State::wait(Ticket ticket) {
  std::unique_lock lock(mutex_);
  const auto found = transfers_.find(ticket);
  if (found == transfers_.end()) {
    misuse(fmt::format("ticket {} was never given or is used up", ticket));
  }
  const Transfer& transfer = found->second;
  if (!transfer.done) {
    const Clock::time_point begin = Clock::now();
    finished_.wait(lock, [&] { return transfer.done; });
    waited_seconds_[static_cast<std::size_t>(transfer.last_path)] +=
        std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const std::exception_ptr error = transfer.end.error;
  transfers_.erase(found);
  if (error != nullptr) {
    std::rethrow_exception(error);
  }
}

bool NvmeStore::State::done(Ticket ticket) const {
  const std::lock_guard lock(mutex_);
  const auto found = transfers_.find(ticket);
  if (found == transfers_.end()) {
    misuse(fmt::format("ticket {} was never given or is used up", ticket));
  }
  return found->second.done;
}

/// The slot that is not current and that nobody uses.
NvmeStore::State::Slot& NvmeStore::State::other(int number) {
  Extent& of = extent(number);
  if (of.slots.size() < 2) {
    misuse(fmt::format("'{}' has one generation", of.name));
  }
  Slot& slot = of.slots[1 - of.current];
  if (slot.active_write || slot.active_reads > 0 || !slot.waiting.empty()) {
    misuse(fmt::format("the next generation of '{}' is still in use", of.name));
  }
  return slot;
}

void NvmeStore::State::commit(int number) {
  const std::lock_guard lock(mutex_);
  if (!other(number).fresh) {
    misuse(fmt::format("no next generation of '{}' was written", extent(number).name));
  }
  Extent& of = extent(number);
  of.current = 1 - of.current;
  for (Slot& slot : of.slots) {
    slot.fresh = false;
  }
  if (!counts_steps_) {
    observe();
  }
}

void NvmeStore::State::discard(int number) {
  const std::lock_guard lock(mutex_);
  other(number).fresh = false;
}

void NvmeStore::State::note_step() {
  const std::lock_guard lock(mutex_);
  counts_steps_ = true;
  observe();
}

void NvmeStore::State::observe() {
  std::vector<PathCounters> counters;
  for (const auto& lane : lanes_) {
    counters.push_back(lane->counters());
  }
  if (rates_.observe(counters)) {
    layout_->set_rates(rates_.rates());
  }
}

double NvmeStore::State::share(int path) const {
  const std::lock_guard lock(mutex_);
  return layout_->share(path);
}

PathCounters NvmeStore::State::counters(int path) const {
  PathCounters result = lane(path).counters();
  const std::lock_guard lock(mutex_);
  result.waited_seconds = waited_seconds_[static_cast<std::size_t>(path)];
  return result;
}

NvmeStore::NvmeStore(NvmeConfig config, std::vector<ExtentSpec> extents)
    : state_(std::make_unique<State>(std::move(config), std::move(extents))) {}
NvmeStore::~NvmeStore() = default;

NvmeStore::Ticket NvmeStore::read(int extent, std::span<std::byte> to) {
  return state_->post(io::Direction::read, extent, false, to);
}
NvmeStore::Ticket NvmeStore::write(int extent, std::span<const std::byte> from) {
  // A request holds bytes of either direction; a write only reads them.
  const std::span<std::byte> bytes(const_cast<std::byte*>(from.data()), from.size());
  return state_->post(io::Direction::write, extent, false, bytes);
}
NvmeStore::Ticket NvmeStore::write_next(int extent, std::span<const std::byte> from) {
  const std::span<std::byte> bytes(const_cast<std::byte*>(from.data()), from.size());
  return state_->post(io::Direction::write, extent, true, bytes);
}
void NvmeStore::commit(int extent) {
  state_->commit(extent);
}
void NvmeStore::discard(int extent) {
  state_->discard(extent);
}
void NvmeStore::wait(Ticket ticket) {
  state_->wait(ticket);
}
bool NvmeStore::done(Ticket ticket) const {
  return state_->done(ticket);
}
void NvmeStore::note_step() {
  state_->note_step();
}
PathCounters NvmeStore::counters(int path) const {
  return state_->counters(path);
}
double NvmeStore::share(int path) const {
  return state_->share(path);
}
std::string_view NvmeStore::engine() const {
  return state_->lane(0).engine();
}
void NvmeStore::set_pace(int path, double read, double write) {
  state_->lane(path).set_pace(read, write);
}

}  // namespace strata::offload
