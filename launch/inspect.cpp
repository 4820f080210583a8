// strata inspect show DIR, strata inspect diff A B: what is in a directory, and where two differ.
#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/io/safetensors.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "launch/model_dir.h"

namespace strata::launch {
namespace {

/// What identifies a stored tensor: its type, extents and bytes.
struct TensorDigest {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint32_t crc = 0;
  friend bool operator==(const TensorDigest&, const TensorDigest&) = default;
};

std::uint32_t tensor_crc(const io::SafetensorsReader& reader, const io::SafetensorsEntry& entry) {
  std::vector<std::byte> piece(std::size_t{1} << 20);
  std::uint32_t crc = 0;
  for (std::int64_t at = 0; at < entry.end - entry.begin; at += std::ssize(piece)) {
    const auto n = std::min<std::int64_t>(std::ssize(piece), entry.end - entry.begin - at);
    const auto bytes = std::span(piece).first(static_cast<std::size_t>(n));
    reader.read(entry, at, bytes);
    crc = io::crc32c(bytes, crc);
  }
  return crc;
}

std::map<std::string, TensorDigest> model_tensors(const std::filesystem::path& directory) {
  std::map<std::string, TensorDigest> tensors;
  for (const auto& file : std::filesystem::directory_iterator(directory)) {
    if (file.path().extension() != ".safetensors") {
      continue;
    }
    const io::SafetensorsReader reader(file.path());
    for (const io::SafetensorsEntry& e : reader.entries()) {
      tensors[e.name] = {e.dtype, e.shape, tensor_crc(reader, e)};
    }
  }
  if (tensors.empty()) {
    throw Error(
        Errc::format,
        fmt::format("inspect: {} holds no complete checkpoint and no safetensors file; give a "
                    "run, a checkpoint or a model directory",
                    directory.string()));
  }
  return tensors;
}

std::optional<std::string> model_difference(const std::filesystem::path& a,
                                            const std::filesystem::path& b) {
  const auto left = model_tensors(a), right = model_tensors(b);
  for (const auto& [name, digest] : left) {
    const auto other = right.find(name);
    if (other == right.end()) {
      return fmt::format("{} is only in {}", name, a.string());
    }
    if (digest != other->second) {
      return fmt::format("{} differs", name);
    }
  }
  for (const auto& [name, digest] : right) {
    if (!left.contains(name)) {
      return fmt::format("{} is only in {}", name, b.string());
    }
  }
  return std::nullopt;
}

std::optional<std::string> difference(const std::filesystem::path& a,
                                      const std::filesystem::path& b) {
  for (const auto& path : {a, b}) {
    if (!is_directory(path)) {
      throw Error(Errc::format,
                  fmt::format("inspect: {} is not a directory; give a run, a checkpoint or a model "
                              "directory",
                              path.string()));
    }
  }
  const auto left = find_checkpoint(a), right = find_checkpoint(b);
  if (left.empty() && right.empty()) {
    return model_difference(a, b);
  }
  if (left.empty() || right.empty()) {
    const auto& checkpoint = left.empty() ? b : a;
    model_tensors(left.empty() ? a : b);  // or there is nothing to compare
    return fmt::format("training state is only in {}", checkpoint.string());
  }
  return checkpoint::first_difference(checkpoint::Reader(left), checkpoint::Reader(right));
}

int diff(Words words) {
  const Args args("inspect diff",
                  words,
                  {"A", "B"},
                  {{"--json", "", "print one JSON object", CommandOption::Kind::flag}});
  if (args.help()) {
    return 0;
  }
  const auto found = difference(args.positional(0), args.positional(1));
  if (args.flag("--json")) {
    const nlohmann::json object{
        {"identical", !found},
        {"first_difference", found ? nlohmann::json(*found) : nlohmann::json(nullptr)}};
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("%s\n", found ? found->c_str() : "identical");
  }
  return 0;
}

int show(Words words) {
  const Args args("inspect show",
                  words,
                  {"DIR"},
                  {{"--json", "", "print one JSON object", CommandOption::Kind::flag}});
  if (args.help()) {
    return 0;
  }
  const auto path = find_checkpoint(args.positional(0));
  if (path.empty()) {
    throw Error(Errc::format,
                fmt::format("inspect: {} holds no complete checkpoint; give a run or a checkpoint",
                            args.positional(0)));
  }
  const checkpoint::Reader reader(path);
  reader.verify();
  const RunState& state = reader.state();
  if (args.flag("--json")) {
    nlohmann::json tensors = nlohmann::json::array();
    for (const auto& t : reader.tensors()) {
      tensors.push_back({{"tensor", t.tensor},
                         {"state", t.state},
                         {"dtype", to_string(t.dtype)},
                         {"shape", std::vector<std::int64_t>(t.shape.begin(), t.shape.end())}});
    }
    const nlohmann::json object{{"path", path.string()},
                                {"step", state.step},
                                {"tokens", state.tokens},
                                {"samples", state.samples},
                                {"numeric_hash", state.numeric_hash},
                                {"tensors", tensors}};
    std::printf("%s\n", object.dump().c_str());
    return 0;
  }
  std::printf("%s\nstep %lld, %lld tokens, %zu stored tensors, every checksum right\n",
              path.c_str(),
              static_cast<long long>(state.step),
              static_cast<long long>(state.tokens),
              reader.tensors().size());
  for (const auto& t : reader.tensors()) {
    std::printf("  %-8s %-5s %-16s %s\n",
                t.state.c_str(),
                std::string(to_string(t.dtype)).c_str(),
                to_string(t.shape).c_str(),
                t.tensor.c_str());
  }
  return 0;
}

}  // namespace

int inspect(Words words) {
  const std::string what = words.empty() ? "" : words.front();
  if (what == "diff") {
    return diff(words.subspan(1));
  }
  if (what == "show") {
    return show(words.subspan(1));
  }
  if (what == "--help" || what == "-h") {
    std::printf(
        "usage: strata inspect show DIR     what a checkpoint holds, every checksum verified\n"
        "       strata inspect diff A B     the first difference of two runs, checkpoints or "
        "models;\n"
        "                                exit code 0 whether they differ or not\n");
    return 0;
  }
  throw Error(Errc::config, fmt::format("inspect: needs 'diff A B' or 'show DIR', got '{}'", what));
}

}  // namespace strata::launch
