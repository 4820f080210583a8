#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/memory.h"

namespace strata::offload {

/// One directory for offloaded bytes, and what its file system gives past the page cache.
struct PathRates {
  std::string directory;
  double read = 0, write = 0;  // bytes per second, alone
  double mixed = 0;            // of reads and writes together, half of each
  std::int64_t block_bytes = 0;
  int depth = 0;        // requests in flight, with which these were reached
  bool direct = false;  // O_DIRECT; else the page cache takes part
  std::string engine;   // "io_uring", "threads"
};

/// What a machine gives, measured by `strata bench hardware`: what plans are made from. Rates are
/// those of all threads together.
struct HardwareProfile {
  std::string machine;  // processor, threads, instruction set, library: of no other is it valid
  double gemm_f32 = 0, gemm_bf16 = 0;  // multiply-adds counted twice, per second
  double copy = 0;                     // bytes per second, read plus written, past the caches
  // The same to and from pages that are locked, and those of another node; 0: not measured, since
  // they may not be locked or there is no other node.
  double copy_pinned = 0, copy_far = 0;
  double update = 0;  // parameters per second, AdamW with f32 state
  /// Elements per second of activations in f32 that are encoded and decoded, by codec.
  struct Codecs {
    double fp8 = 0, int8 = 0, int4 = 0;
  } codecs;
  // Rates beside something else, relative to alone.
  double gemm_beside_copy = 1;  // a product on all threads but one, which copies
  double gemm_beside_io = 1;    // a product on all threads, while the first path is used; without
                                // paths it is not measured and not stored
  std::vector<PathRates> paths;
};

/// Bytes per second of copies between two tiers of memory, each byte read and written: as fast as
/// the slower of the two. What was not measured is as assumed: locked pages as others, another node
/// half as fast.
double memory_copy_rate(const HardwareProfile& profile, Tier from, Tier to, bool other_node);

/// One JSON object.
std::string to_json(const HardwareProfile& profile);
/// Throws format, naming `origin` and the field, when something is absent or no number above 0.
HardwareProfile profile_from_json(std::string_view text, const std::string& origin);

/// How long a path is measured and with how many bytes.
struct PathTrial {
  std::int64_t file_bytes = 256ll << 20;
  double seconds = 0.25;  // of each setting and direction
};
/// Writes, reads and does both with a file of its own in `directory`, which is gone afterwards; the
/// block size and depth that read fastest. Throws io, naming need and free bytes.
PathRates measure_path(const std::filesystem::path& directory, const PathTrial& trial = {});

}  // namespace strata::offload
