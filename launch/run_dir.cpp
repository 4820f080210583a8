#include "launch/run_dir.h"

#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::launch {

RunDir::RunDir(std::filesystem::path path, Earlier earlier) : path_(std::move(path)) {
  std::error_code failed;
  create_directories(path_, failed);
  if (failed) {
    throw Error(Errc::io,
                fmt::format("run: cannot create {}: {}", path_.string(), failed.message()));
  }
  lock_ = std::make_unique<io::FileLock>(path_ / "lock");
  const bool used = exists(path_ / "metrics.jsonl") || exists(checkpoints());
  if (used && earlier == Earlier::refuse) {
    throw Error(Errc::config,
                fmt::format("run: {} holds an earlier run; go on with --resume auto, or choose "
                            "another --run.dir",
                            path_.string()));
  }
}

}  // namespace strata::launch
