#pragma once
#include <filesystem>
#include <memory>

#include "core/io/file.h"

namespace strata::launch {

/// Whether an earlier run in the directory may be gone on with.
enum class Earlier : std::uint8_t { refuse, accept };

/// The directory of one run, held by an advisory lock while this lives: a second process is refused
/// with Errc::config. Holds config.toml, metrics.jsonl and ckpt/.
class RunDir {
 public:
  /// Creates the directory. Throws config when it holds an earlier run that is not to be gone on
  /// with.
  RunDir(std::filesystem::path path, Earlier earlier);
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "ckpt"; }

 private:
  std::filesystem::path path_;
  std::unique_ptr<io::FileLock> lock_;
};

}  // namespace strata::launch
