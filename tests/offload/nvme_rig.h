#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/memory.h"
#include "offload/nvme_store.h"
#include "tests/support/temp_dir.h"

namespace strata::offload::tests {

using strata::tests::TempDir;

constexpr std::int64_t kKiB = 1024, kMiB = 1024 * 1024;

/// Page-aligned bytes.
class Bytes {
 public:
  explicit Bytes(std::int64_t size) : size_(size), arena_(Tier{TierKind::host, 0}, size, size) {}
  Bytes(std::int64_t size, unsigned seed) : Bytes(size) { fill(seed); }
  void fill(unsigned seed) {
    std::uint64_t x = seed * 0x9E3779B97F4A7C15ull + 1;
    for (std::byte& b : span()) {
      x = x * 6364136223846793005ull + 1442695040888963407ull;
      b = static_cast<std::byte>(x >> 56);
    }
  }
  std::span<std::byte> span() const { return arena_.range(0, size_); }
  operator std::span<std::byte>() const { return span(); }
  operator std::span<const std::byte>() const { return span(); }
  bool operator==(const Bytes& other) const {
    return std::equal(span().begin(), span().end(), other.span().begin(), other.span().end());
  }

 private:
  std::int64_t size_;
  Arena arena_;
};

inline std::size_t entries_of(const std::filesystem::path& directory) {
  const std::filesystem::directory_iterator all(directory);
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}
inline std::size_t open_descriptors() {
  return entries_of("/proc/self/fd");
}
inline std::size_t living_threads() {
  return entries_of("/proc/self/task");
}
/// Whether there are soon no more than so many: one that was joined may still be on its way out.
inline bool threads_come_down_to(std::size_t count) {
  for (int k = 0; k < 200 && living_threads() > count; ++k) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return living_threads() <= count;
}

/// Small stripes and blocks, so that a small extent has many; all bytes checked.
inline NvmeConfig small_config(
    const TempDir& dir,
    int paths,
    io::QueueConfig::Engine engine = io::QueueConfig::Engine::automatic) {
  NvmeConfig config;
  for (int i = 0; i < paths; ++i) {
    const std::filesystem::path directory = dir / ("path" + std::to_string(i));
    std::filesystem::create_directories(directory);
    config.paths.push_back(
        {.directory = directory, .budget_bytes = 64 * kMiB, .block_bytes = 32 * kKiB, .depth = 8});
  }
  config.stripe_bytes = 64 * kKiB;
  config.verify = Verify::all;
  config.engine = engine;
  using std::chrono::milliseconds;
  config.device_pauses = {milliseconds(1), milliseconds(2), milliseconds(4)};
  return config;
}

inline void write(NvmeStore& store, int extent, const Bytes& bytes) {
  store.wait(store.write(extent, bytes));
}
inline Bytes read(NvmeStore& store, int extent, std::int64_t size) {
  Bytes back(size);
  store.wait(store.read(extent, back));
  return back;
}

}  // namespace strata::offload::tests
