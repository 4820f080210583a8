// A store is made: files, places, lanes, and one line about each way that is slower than the usual.
#include <algorithm>
#include <cstdio>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "offload/nvme_state.h"

namespace strata::offload {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kCheckBytes = 1 << 20;
constexpr std::size_t kMaxPaths = 64;

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
      throw Error(Errc::internal,
                  fmt::format("nvme: extent '{}' needs a multiple of 4096 bytes and 1 or 2 "
                              "generations, got {} and {}",
                              extent.name,
                              extent.size_bytes,
                              extent.generations));
    }
  }
}

}  // namespace

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
                 .shared_pace = config_.shared_pace,
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

}  // namespace strata::offload
