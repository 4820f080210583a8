#include "offload/nvme_store.h"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "offload/nvme_lane.h"
#include "offload/nvme_rates.h"

namespace strata::offload {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kCheckBytes = 1 << 20;
constexpr std::size_t kNamesInMessage = 8, kMaxPaths = 64;

/// What other paths can help with.
bool of_path(PartEnd::Kind kind) {
  return kind == PartEnd::Kind::path_failed || kind == PartEnd::Kind::path_full;
}

[[noreturn]] void misuse(const std::string& what) {
  throw Error(Errc::internal, "nvme: " + what);
}

void check_config(const NvmeConfig& config, const std::vector<ExtentSpec>& extents) {
  if (config.paths.empty() || config.paths.size() > kMaxPaths) {
    throw Error(
        Errc::config,
        fmt::format("nvme: a store needs 1 to {} paths, got {}", kMaxPaths, config.paths.size()));
  }
  const std::int64_t stripe = config.stripe_bytes;
  if (stripe < kPage || stripe % kPage != 0 ||
      (stripe > kCheckBytes && stripe % kCheckBytes != 0)) {
    throw Error(Errc::config,
                fmt::format("nvme: stripe_bytes must be a multiple of 4096, above 1 MiB one of 1 "
                            "MiB, got {}",
                            stripe));
  }
  for (const NvmePath& path : config.paths) {
    if (path.budget_bytes <= 0 || path.depth < 1 || path.block_bytes < kPage ||
        path.block_bytes % kPage != 0) {
      throw Error(Errc::config,
                  fmt::format("nvme: '{}' needs a budget above 0, depth above 0 and a block of a "
                              "multiple of 4096 bytes, got {}, {}, {}",
                              path.directory.string(),
                              path.budget_bytes,
                              path.depth,
                              path.block_bytes));
    }
  }
  for (const ExtentSpec& extent : extents) {
    if (extent.size_bytes <= 0 || extent.size_bytes % kPage != 0 ||
        (extent.generations != 1 && extent.generations != 2)) {
      misuse(
          fmt::format("extent '{}' needs a multiple of 4096 bytes and 1 or 2 generations, got "
                      "{} and {}",
                      extent.name,
                      extent.size_bytes,
                      extent.generations));
    }
  }
}

}  // namespace

class NvmeStore::State {
 public:
  State(NvmeConfig config, std::vector<ExtentSpec> extents);
  ~State();
  Ticket post(io::Direction direction, int extent, bool next, std::span<std::byte> bytes);
  void commit(int extent);
  void discard(int extent);
  void wait(Ticket ticket);
  bool done(Ticket ticket) const;
  void note_step();
  double share(int path) const;
  PathCounters counters(int path) const;
  NvmeLane& lane(int path) const { return *lanes_.at(static_cast<std::size_t>(path)); }

 private:
  struct Slot;
  struct Transfer : LaneTransfer {
    Ticket ticket = 0;
    Slot* where = nullptr;
    int open_parts = 0, last_path = 0, failed_path = 0;
    PartEnd end;
    bool done = false;
  };
  struct Slot {
    NvmeLayout::Slot layout;
    std::optional<BlockChecks> checks;
    bool written = false;
    bool torn = false;   // its last write failed
    bool fresh = false;  // written since it was current
    int active_reads = 0;
    bool active_write = false;
    std::deque<Transfer*> waiting;
  };
  struct Extent {
    std::string name;
    std::vector<Slot> slots;
    std::size_t current = 0;
  };

  void open_files();
  void place(const std::vector<ExtentSpec>& extents);
  void make_lanes();
  std::unique_ptr<NvmeLane> make_lane(std::size_t path);
  void warn_of_lanes();
  void warn(std::string_view text);
  bool grow(int path, std::int64_t size_bytes);

  Extent& extent(int number);
  Slot& other(int number);
  void start_ready(Slot& slot);
  void start(Transfer& transfer);
  void part_finished(Transfer& transfer, int path, PartEnd end);
  bool elsewhere(Transfer& transfer);
  void finish(Transfer& transfer);
  std::exception_ptr failure(const Transfer& transfer) const;
  std::string lost_names(int path) const;
  void observe();

  NvmeConfig config_;
  mutable std::mutex mutex_, fault_mutex_, warn_mutex_;
  std::condition_variable finished_;
  std::vector<std::unique_ptr<SwapFile>> files_;
  std::optional<NvmeLayout> layout_;
  NvmeRates rates_;
  std::vector<Extent> extents_;
  std::map<Ticket, Transfer> transfers_;
  std::vector<double> waited_seconds_;
  Ticket last_ = 0;
  std::int64_t unfinished_ = 0;
  bool counts_steps_ = false;
  std::vector<std::unique_ptr<NvmeLane>> lanes_;  // last: they end before what they use is gone
};

NvmeStore::State::State(NvmeConfig config, std::vector<ExtentSpec> extents)
    : config_(std::move(config)), rates_(config_.paths), waited_seconds_(config_.paths.size(), 0) {
  check_config(config_, extents);
  if (config_.fault) {
    config_.fault = [this, fault = config_.fault](const io::Request& request, std::int64_t result) {
      const std::lock_guard lock(fault_mutex_);
      return fault(request, result);
    };
  }
  open_files();
  place(extents);
  make_lanes();
}

NvmeStore::State::~State() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [&] { return unfinished_ == 0; });
}

void NvmeStore::State::open_files() {
  for (const NvmePath& path : config_.paths) {
    remove_dead_swap_files(path.directory);
  }
  for (std::size_t i = 0; i < config_.paths.size(); ++i) {
    const NvmePath& path = config_.paths[i];
    files_.push_back(std::make_unique<SwapFile>(
        path.directory,
        config_.rank,
        static_cast<int>(i),
        SwapFile::Options{config_.direct, path.alignment_bytes, config_.fault}));
    if (config_.stripe_bytes % files_.back()->alignment() != 0) {
      throw Error(Errc::config,
                  fmt::format("nvme: '{}' moves multiples of {} bytes, and a stripe of {} is none",
                              path.directory.string(),
                              files_.back()->alignment(),
                              config_.stripe_bytes));
    }
  }
}

void NvmeStore::State::place(const std::vector<ExtentSpec>& extents) {
  std::vector<NvmeLayout::Path> paths;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    paths.push_back({config_.paths[i].budget_bytes, files_[i]->alignment()});
  }
  layout_.emplace(std::move(paths), config_.stripe_bytes, rates_.rates());
  std::vector<std::int64_t> sizes;
  for (const ExtentSpec& spec : extents) {
    sizes.insert(sizes.end(), static_cast<std::size_t>(spec.generations), spec.size_bytes);
  }
  std::vector<NvmeLayout::Slot> slots = layout_->place(sizes);
  std::size_t next = 0;
  for (std::size_t e = 0; e < extents.size(); ++e) {
    Extent& made = extents_.emplace_back();
    made.name = extents[e].name;
    made.slots.resize(static_cast<std::size_t>(extents[e].generations));
    for (Slot& slot : made.slots) {
      slot.layout = std::move(slots[next++]);
      slot.checks.emplace(config_.verify,
                          extents[e].size_bytes,
                          std::min(kCheckBytes, config_.stripe_bytes),
                          static_cast<int>(e));
    }
  }
  for (std::size_t i = 0; i < files_.size(); ++i) {
    files_[i]->reserve(layout_->end(static_cast<int>(i)));
  }
  layout_->set_grow([this](int path, std::int64_t size) { return grow(path, size); });
}

bool NvmeStore::State::grow(int path, std::int64_t size_bytes) {
  try {
    files_[static_cast<std::size_t>(path)]->reserve(size_bytes);
    return true;
  } catch (const Error&) {
    return false;  // the file system is fuller than the budget says: no free units there
  }
}

void NvmeStore::State::make_lanes() {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    lanes_.push_back(make_lane(i));
  }
  warn_of_lanes();
}

std::unique_ptr<NvmeLane> NvmeStore::State::make_lane(std::size_t path) {
  const NvmePath& settings = config_.paths[path];
  io::QueueConfig queue;
  queue.engine = config_.engine;
  queue.depth = settings.depth;
  queue.block_bytes = settings.block_bytes;
  queue.fault = config_.fault;
  queue.patience.device_pauses = config_.device_pauses;
  queue.patience.timeout = config_.timeout;
  queue.batched = true;
  queue.buffers.assign(config_.registered.begin(), config_.registered.end());
  const auto finished = [this](LaneTransfer& transfer, int where, PartEnd end) {
    part_finished(static_cast<Transfer&>(transfer), where, std::move(end));
  };
  return std::make_unique<NvmeLane>(
      *files_[path],
      LaneConfig{.path = static_cast<int>(path),
                 .stripe_bytes = config_.stripe_bytes,
                 .check_bytes = std::min(kCheckBytes, config_.stripe_bytes),
                 .allow_buffered = config_.allow_buffered,
                 .settings = settings,
                 .queue = std::move(queue),
                 .warn = [this](std::string_view text) { warn(text); },
                 .finished = finished});
}

void NvmeStore::State::warn_of_lanes() {
  const NvmeLane& first = *lanes_.front();
  if (config_.engine == io::QueueConfig::Engine::automatic && first.engine() == "threads") {
    warn("nvme: the kernel grants no io_uring; threads read and write instead");
  }
  for (const auto& lane : lanes_) {
    if (!lane->buffers_refused().empty()) {
      return warn(
          fmt::format("nvme: the kernel refuses to register buffers ({}); transfers go without: "
                      "raise the limit on locked memory (ulimit -l)",
                      lane->buffers_refused()));
    }
  }
}

void NvmeStore::State::warn(std::string_view text) {
  const std::lock_guard lock(warn_mutex_);
  if (config_.warn) {
    config_.warn(text);
  } else {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
  }
}

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
