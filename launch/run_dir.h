#pragma once
#include <filesystem>
#include <memory>

#include "core/io/file.h"

namespace strata::launch {

/// Whether an earlier run in the directory may be gone on with.
enum class Earlier : std::uint8_t { refuse, accept };

/// The directory of one run, held by an advisory lock while this lives: a second process is refused
/// with Errc::config. Holds config.toml, metrics.jsonl, ckpt/ and, if asked for, trace.json.
class RunDir {
 public:
  /// A directory that exists is locked at once, so that what is read of it stays; one that does not
  /// is left unmade. Throws config when it holds an earlier run that is not to be gone on with.
  RunDir(std::filesystem::path path, Earlier earlier);
  /// Makes and locks the directory if that is still to be done: the last thing before a run writes,
  /// so that a refused run leaves nothing behind.
  void create();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "ckpt"; }

 private:
  void hold();

  std::filesystem::path path_;
  Earlier earlier_;
  std::unique_ptr<io::FileLock> lock_;
};

}  // namespace strata::launch
