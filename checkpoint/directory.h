#pragma once
#include <compare>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata::checkpoint {

/// The name of a committed checkpoint: "s<step:012d>-i<incarnation:04d>". An incarnation is one
/// start of the program: a resumed run that reaches a step again never collides with what it
/// finds there.
struct Name {
  std::int64_t step = 0;
  int incarnation = 0;
  friend auto operator<=>(const Name&, const Name&) = default;
};
std::string to_string(const Name& name);
std::optional<Name> parse_name(std::string_view text);

/// "d<writer:05d>_<k:02d>.safetensors".
std::string data_file_name(int writer, int k);
bool is_data_file_name(std::string_view name);

/// Directories that are named like checkpoints, newest first. Empty when root does not exist.
std::vector<Name> committed(const std::filesystem::path& root);

/// A new directory beside the committed ones where an attempt collects its files: its name begins
/// with a dot, so that nobody takes it for a checkpoint.
std::filesystem::path make_stage(const std::filesystem::path& root, const Name& name);
/// Removes a committed checkpoint: out of sight first, so that a part of one is never seen.
void discard(const std::filesystem::path& root, const Name& name);
/// Removes what dead processes left: .stage-* and .trash-*. The run's lock guarantees that none is
/// alive.
void remove_leftovers(const std::filesystem::path& root);

/// Discards committed checkpoints until `keep_last` complete ones are left; `just_committed` is
/// always one of them. Damaged ones count for nothing and go once enough good ones are newer.
void retain(const std::filesystem::path& root,
            const Name& just_committed,
            int keep_last,
            const std::function<bool(const std::filesystem::path&)>& complete);

}  // namespace strata::checkpoint
