#pragma once
#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"

namespace strata::tests {

using Words = std::vector<std::string>;

/// A directory with a text and runs of the program that take a moment: one block, 16 channels, 6
/// steps, a checkpoint after each.
class TinyRuns {
 public:
  TinyRuns();
  std::filesystem::path operator/(const std::string& name) const { return dir_ / name; }
  const TempDir& dir() const { return dir_; }
  /// "train" with the settings of such a run on `text` into the run directory `name`, then `more`;
  /// a setting of `more` replaces ours.
  Words train(const std::string& name, const Words& more = {}) const;
  /// A run killed after its fourth step, with the checkpoints of steps 2 and 3.
  std::filesystem::path killed(const std::string& name) const;
  /// Trains `name` from the start to its end, undisturbed.
  std::filesystem::path finished(const std::string& name) const;
  /// A file with these bytes.
  std::filesystem::path file(const std::string& name, std::string_view bytes) const;
  /// The bytes of every file below, by relative path; the lock file is left out, since looking at a
  /// run may write it. Directories have a trailing slash and no bytes.
  std::map<std::string, std::string> contents() const;

 private:
  TempDir dir_;
};

/// Expects the program to have refused: this exit code, one line on standard error that contains
/// every one of `words`, nothing on standard output.
void expect_refused(const CommandEnd& end, int code, std::initializer_list<std::string_view> words);
/// Expects a run to have stopped so: the last line is the one that counts, lines of progress may
/// stand before it.
void expect_stopped(const CommandEnd& end, int code, std::initializer_list<std::string_view> words);
/// Expects two runs to have ended with the same bytes.
void expect_identical(const std::filesystem::path& a, const std::filesystem::path& b);
void flip_bit(const std::filesystem::path& file, std::int64_t bit);

}  // namespace strata::tests
