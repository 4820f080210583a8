#include "checkpoint/directory.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <random>
#include <system_error>

#include <fmt/format.h>
#include <sys/stat.h>

#include "checkpoint/kill_points.h"
#include "core/io/errors.h"
#include "core/io/file.h"
#include "core/kill_point.h"

namespace strata::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStagePrefix = ".stage-";
constexpr std::string_view kTrashPrefix = ".trash-";

/// A number at the front of `text`, which is then cut off.
template <class T>
std::optional<T> take_number(std::string_view& text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  const bool there = text.starts_with(prefix);
  text.remove_prefix(there ? prefix.size() : 0);
  return there;
}

fs::path hidden(const fs::path& root, std::string_view prefix, const Name& name) {
  std::random_device random;
  return root / fmt::format("{}{}-{:08x}", prefix, to_string(name), random());
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) {
    throw io::io_error(path, "removal", error.value());
  }
}

}  // namespace

std::string to_string(const Name& name) {
  return fmt::format("s{:012d}-i{:04d}", name.step, name.incarnation);
}

std::optional<Name> parse_name(std::string_view text) {
  std::string_view rest = text;
  if (!take(rest, "s")) {
    return std::nullopt;
  }
  const auto step = take_number<std::int64_t>(rest);
  if (!step || !take(rest, "-i")) {
    return std::nullopt;
  }
  const auto incarnation = take_number<int>(rest);
  // Only the exact spelling: "s1-i1" would be a second name of the same checkpoint.
  if (!incarnation || to_string({*step, *incarnation}) != text) {
    return std::nullopt;
  }
  return Name{*step, *incarnation};
}

std::string data_file_name(int writer, int k) {
  return fmt::format("d{:05d}_{:02d}.safetensors", writer, k);
}

bool is_data_file_name(std::string_view name) {
  std::string_view rest = name;
  return take(rest, "d") && take_number<int>(rest) && take(rest, "_") && take_number<int>(rest) &&
         rest == ".safetensors";
}

std::vector<Name> committed(const fs::path& root) {
  std::vector<Name> names;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    if (const std::optional<Name> name = parse_name(it->path().filename().string())) {
      names.push_back(*name);
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw io::io_error(root, "listing", error.value());
  }
  std::sort(names.begin(), names.end(), std::greater<>());
  return names;
}

fs::path make_stage(const fs::path& root, const Name& name) {
  const fs::path stage = hidden(root, kStagePrefix, name);
  if (::mkdir(stage.c_str(), 0777) != 0) {
    throw io::io_error(stage, "creation of directory", errno);
  }
  return stage;
}

void discard(const fs::path& root, const Name& name) {
  const fs::path trash = hidden(root, kTrashPrefix, name);
  io::rename_new(root / to_string(name), trash);
  io::sync_directory(root);
  kill_point(kKillTrashed);
  remove_tree(trash);
}

void remove_leftovers(const fs::path& root) {
  std::vector<fs::path> dead;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kStagePrefix) || name.starts_with(kTrashPrefix)) {
      dead.push_back(entry.path());
    }
  }
  std::for_each(dead.begin(), dead.end(), remove_tree);
}

void retain(const fs::path& root,
            const Name& just_committed,
            int keep_last,
            const std::function<bool(const fs::path&)>& complete) {
  int kept = 1;
  for (const Name& name : committed(root)) {
    if (name == just_committed) {
      continue;
    }
    if (kept >= keep_last) {
      discard(root, name);
    } else if (complete(root / to_string(name))) {
      ++kept;
    }
  }
}

}  // namespace strata::checkpoint
