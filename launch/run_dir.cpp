#include "launch/run_dir.h"

#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::launch {

RunDir::RunDir(std::filesystem::path path, Earlier earlier)
    : path_(std::move(path)), earlier_(earlier) {
  if (exists(path_)) {
    hold();
    return;
  }
  std::filesystem::path above = absolute(path_);
  while (!exists(above)) {
    above = above.parent_path();
  }
  if (!is_directory(above)) {
    throw Error(Errc::config,
                fmt::format("run: {} cannot be made: {} is no directory; choose another --run.dir",
                            path_.string(),
                            above.string()));
  }
}

void RunDir::create() {
  if (lock_) {
    return;
  }
  std::error_code failed;
  create_directories(path_, failed);
  if (failed) {
    throw Error(Errc::io,
                fmt::format("run: cannot create {}: {}; choose another --run.dir",
                            path_.string(),
                            failed.message()));
  }
  hold();
}

void RunDir::hold() {
  if (!is_directory(path_)) {
    throw Error(Errc::config,
                fmt::format("run: {} is no directory; choose another --run.dir", path_.string()));
  }
  lock_ = std::make_unique<io::FileLock>(path_ / "lock");
  const bool used = exists(path_ / "metrics.jsonl") || exists(checkpoints());
  if (used && earlier_ == Earlier::refuse) {
    throw Error(Errc::config,
                fmt::format("run: {} holds an earlier run; go on with --resume auto, or choose "
                            "another --run.dir",
                            path_.string()));
  }
}

}  // namespace strata::launch
