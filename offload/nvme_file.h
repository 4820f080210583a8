#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "core/io/file.h"
#include "core/io/queue.h"

namespace strata::offload {

/// Removes extent files in this directory whose process is gone. What a living process holds, or
/// another machine, stays.
void remove_dead_swap_files(const std::filesystem::path& directory);

/// The extent file of one path, locked by a file beside it that names process and boot, and gone
/// with this object.
class SwapFile {
 public:
  struct Options {
    bool direct = true;
    std::int64_t alignment_bytes = 0;  // 0: asked of the file system
    io::FaultInjector fault = {};      // see NvmeConfig
  };
  /// Throws config when a living process holds the file.
  SwapFile(const std::filesystem::path& directory, int rank, int index, const Options& options);
  ~SwapFile();
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  /// Makes it at least so long, with bytes reserved. Throws io naming need and free bytes.
  void reserve(std::int64_t size_bytes);
  std::int64_t size_bytes() const { return size_bytes_; }
  /// Past the page cache; -1: refused, or not wanted.
  int direct_fd() const { return direct_.get(); }
  int buffered_fd() const { return buffered_.get(); }
  /// Of offsets and sizes of direct transfers; at least 4096.
  std::int64_t alignment() const { return alignment_; }
  /// Why there are no direct transfers; empty: there are, or none were wanted.
  const std::string& refusal() const { return refusal_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void lock();
  void open_direct(const Options& options);
  std::filesystem::path path_, lock_path_;
  io::FaultInjector fault_;
  io::Fd lock_, buffered_, direct_;
  std::int64_t alignment_ = 4096, size_bytes_ = 0;
  std::string refusal_;
};

}  // namespace strata::offload
