#include "launch/run_dir.h"

#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/model_dir.h"

namespace strata::launch {

Resume parse_resume(const std::string& text) {
  if (text.empty()) {
    return {};
  }
  if (text == "auto") {
    return {Resume::Mode::automatic, {}};
  }
  if (text == "never") {
    return {Resume::Mode::never, {}};
  }
  return {Resume::Mode::path, text};
}

RunDir::RunDir(std::filesystem::path path, const Resume& resume)
    : path_(std::move(path)), resume_(resume) {
  std::error_code failed;
  create_directories(path_, failed);
  if (failed) {
    throw Error(Errc::io,
                fmt::format("run: cannot create {}: {}", path_.string(), failed.message()));
  }
  lock_ = std::make_unique<io::FileLock>(path_ / "lock");
  const bool used = exists(path_ / "metrics.jsonl") || exists(checkpoints());
  if (used && resume.mode == Resume::Mode::refuse) {
    throw Error(Errc::config,
                fmt::format("run: {} holds an earlier run; go on with --resume auto, or choose "
                            "another --run.dir",
                            path_.string()));
  }
  if (used && resume.mode == Resume::Mode::never) {
    throw Error(Errc::config,
                fmt::format("run: {} holds an earlier run and --resume never would mix two runs; "
                            "choose another --run.dir or remove it",
                            path_.string()));
  }
}

std::filesystem::path RunDir::resume_from() const {
  if (resume_.mode == Resume::Mode::automatic) {
    return find_checkpoint(path_);
  }
  if (resume_.mode == Resume::Mode::path) {
    const auto found = find_checkpoint(resume_.checkpoint);
    if (found.empty()) {
      throw Error(Errc::format,
                  fmt::format("resume: {} is neither a run with a complete checkpoint nor a "
                              "checkpoint; use --resume auto to start afresh when there is none",
                              resume_.checkpoint.string()));
    }
    return found;
  }
  return {};
}

}  // namespace strata::launch
