#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "core/io/file.h"

namespace strata::launch {

/// What to do about an earlier run in the directory.
struct Resume {
  enum class Mode : std::uint8_t { refuse, automatic, never, path } mode = Mode::refuse;
  std::filesystem::path checkpoint;  // Mode::path
};
/// "", "auto", "never" or a path of a run or checkpoint.
Resume parse_resume(const std::string& text);

/// The directory of one run, held by an advisory lock while this lives: a second process is refused
/// with Errc::config. Holds config.toml, metrics.jsonl and ckpt/.
class RunDir {
 public:
  /// Creates the directory. Throws config when it holds an earlier run and `resume` says nothing,
  /// or when `never` would leave two runs in one place.
  RunDir(std::filesystem::path path, const Resume& resume);
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "ckpt"; }
  /// The checkpoint to go on from; empty: start afresh. Throws format when a named one is not
  /// there.
  std::filesystem::path resume_from() const;

 private:
  std::filesystem::path path_;
  Resume resume_;
  std::unique_ptr<io::FileLock> lock_;
};

}  // namespace strata::launch
