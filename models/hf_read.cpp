#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "models/hf.h"

namespace strata::models {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kPieceElements = 1 << 20;

[[noreturn]] void fail(const fs::path& path, std::string_view what) {
  throw Error(
      Errc::format,
      fmt::format("model: {}: {}; take config.json and weights from the same complete model",
                  path.string(),
                  what));
}

/// What every parameter's name but the head's begins with in a checkpoint of the whole model; a
/// checkpoint of the model without its head leaves it out.
std::string_view name_prefix(Family family) {
  return family == Family::gpt2 ? "transformer." : "model.";
}

/// Tensors that older checkpoints hold beside the parameters: causal masks, RoPE tables.
bool is_buffer(Family family, std::string_view name) {
  return family == Family::gpt2
             ? name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
             : name.ends_with(".rotary_emb.inv_freq");
}

std::string shape_text(std::span<const std::int64_t> extents) {
  return fmt::format("({})", fmt::join(extents, ", "));
}

/// One tensor of the directory that somebody asked for.
struct Found {
  const io::SafetensorsReader* reader = nullptr;
  const io::SafetensorsEntry* entry = nullptr;
  fs::path path;
};

/// All files of a directory's weights, with headers checked.
struct Files {
  std::map<fs::path, io::SafetensorsReader> readers;
  /// tensor -> file, where an index says so; empty for a single file.
  std::map<std::string, fs::path> index;
};

std::map<std::string, fs::path> read_index(const fs::path& path) {
  const json parsed = json::parse(io::read_text(path), nullptr, false);
  if (!parsed.is_object() || !parsed.contains("weight_map") || !parsed["weight_map"].is_object()) {
    fail(path, "needs a JSON object with an object 'weight_map'");
  }
  std::map<std::string, fs::path> index;
  for (const auto& [tensor, file] : parsed["weight_map"].items()) {
    if (!file.is_string()) {
      fail(path, fmt::format("'{}' must name a file, got {}", tensor, file.dump()));
    }
    const fs::path name = file.get<std::string>();
    if (name.empty() || name != name.filename() || name == "." || name == "..") {
      fail(path, fmt::format("'{}' is in '{}', which is not a file name", tensor, name.string()));
    }
    index[tensor] = path.parent_path() / name;
  }
  return index;
}

Files open_files(const fs::path& directory) {
  Files files;
  std::error_code ignored;
  const fs::path single = directory / "model.safetensors";
  if (fs::exists(single, ignored)) {
    files.readers.emplace(single, single);
    return files;
  }
  const fs::path index = directory / "model.safetensors.index.json";
  if (!fs::exists(index, ignored)) {
    fail(directory,
         "has neither model.safetensors nor model.safetensors.index.json (weights in "
         "pytorch_model.bin must be saved again as safetensors)");
  }
  files.index = read_index(index);
  for (const auto& [tensor, path] : files.index) {
    if (!fs::exists(path, ignored)) {
      fail(index, fmt::format("'{}' is in {}, which is absent", tensor, path.string()));
    }
    files.readers.try_emplace(path, path);
  }
  return files;
}

/// Every tensor of the files under its parameter's full name, once, none unasked for.
std::map<std::string, Found> collect(const Files& files,
                                     const ModelConfig& config,
                                     const std::set<std::string>& wanted) {
  std::map<std::string, Found> found;
  for (const auto& [path, reader] : files.readers) {
    for (const io::SafetensorsEntry& entry : reader.entries()) {
      const auto listed = files.index.find(entry.name);
      if (!files.index.empty() && (listed == files.index.end() || listed->second != path)) {
        fail(path, fmt::format("tensor '{}' is not there according to the index", entry.name));
      }
      const std::string full = std::string(name_prefix(config.family)) + entry.name;
      const std::string& name = wanted.contains(entry.name) ? entry.name : full;
      if (wanted.contains(name)) {
        if (!found.try_emplace(name, Found{&reader, &entry, path}).second) {
          fail(path, fmt::format("tensor '{}' comes twice", name));
        }
        continue;
      }
      // Older checkpoints repeat the tied table as a head of its own.
      const bool repeated = config.tied && entry.name == "lm_head.weight" &&
                            entry.shape == std::vector<std::int64_t>{config.V, config.C};
      if (!repeated && !is_buffer(config.family, entry.name)) {
        fail(path,
             fmt::format(
                 "tensor '{}' {} is not part of the model", entry.name, shape_text(entry.shape)));
      }
    }
  }
  return found;
}

void check(const Found& found, const ParamSpec& param) {
  const Shape& need = param.info.shape;
  const io::SafetensorsEntry& entry = *found.entry;
  if (!std::equal(need.begin(), need.end(), entry.shape.begin(), entry.shape.end())) {
    fail(found.path,
         fmt::format("tensor '{}' needs shape {}, got {}",
                     entry.name,
                     to_string(need),
                     shape_text(entry.shape)));
  }
  if (entry.dtype != "F32" && entry.dtype != "BF16" && entry.dtype != "F16") {
    fail(found.path,
         fmt::format("tensor '{}' needs dtype F32, BF16 or F16, got {}", entry.name, entry.dtype));
  }
}

float from_half(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t fraction = h & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  // Infinity and NaN keep an exponent of ones; others are rebiased from 15 to 127.
  const std::uint32_t rebiased = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | rebiased << 23 | fraction << 13);
}

void widen(std::span<float> to, std::span<const std::byte> from, std::string_view dtype) {
  if (dtype == "F32") {
    std::memcpy(to.data(), from.data(), from.size());
    return;
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from.data() + 2 * i, 2);
    to[i] = dtype == "BF16" ? to_float(bf16{bits}) : from_half(bits);
  }
}

/// Elements [begin, begin + values.size()) of a tensor.
void read_values(const Found& found, std::int64_t begin, std::span<float> values) {
  const std::int64_t width = found.entry->dtype == "F32" ? 4 : 2;
  std::vector<std::byte> raw(std::min(values.size(), kPieceElements) *
                             static_cast<std::size_t>(width));
  while (!values.empty()) {
    const std::size_t n = std::min(values.size(), kPieceElements);
    const std::span<std::byte> bytes = std::span(raw).first(n * static_cast<std::size_t>(width));
    found.reader->read(*found.entry, begin * width, bytes);
    widen(values.first(n), bytes, found.entry->dtype);
    begin += static_cast<std::int64_t>(n);
    values = values.subspan(n);
  }
}

void stream(const Found& found, const ParamSpec& param, const ParamSink& sink) {
  const auto numel = static_cast<std::size_t>(param.info.shape.numel());
  std::vector<float> values(std::min(kPieceElements, numel));
  for (std::size_t begin = 0; begin < numel; begin += kPieceElements) {
    const std::span<float> piece = std::span(values).first(std::min(kPieceElements, numel - begin));
    read_values(found, static_cast<std::int64_t>(begin), piece);
    sink(param, static_cast<std::int64_t>(begin), piece);
  }
}

/// A directory's weights, found and checked.
struct Weights {
  std::vector<std::unique_ptr<Block>> blocks;
  Files files;
  std::map<std::string, Found> found;
};

Weights open_weights(const fs::path& directory, const ModelConfig& config) {
  Weights weights{build_blocks(config), open_files(directory), {}};
  std::set<std::string> wanted;
  for (const auto& block : weights.blocks) {
    for (const ParamSpec& param : block->spec().params) {
      wanted.insert(param.info.name);
    }
  }
  weights.found = collect(weights.files, config, wanted);
  for (const auto& [tensor, path] : weights.files.index) {
    if (weights.files.readers.at(path).find(tensor) == nullptr) {
      fail(path, fmt::format("tensor '{}' is absent though the index names it", tensor));
    }
  }
  for (const auto& block : weights.blocks) {
    for (const ParamSpec& param : block->spec().params) {
      const auto it = weights.found.find(param.info.name);
      if (it == weights.found.end()) {
        fail(
            directory,
            fmt::format("tensor '{}' {} is missing", param.info.name, to_string(param.info.shape)));
      }
      check(it->second, param);
    }
  }
  return weights;
}

}  // namespace

void check_weights(const fs::path& directory, const ModelConfig& config) {
  open_weights(directory, config);
}

ParamSource weights_source(const fs::path& directory, const ModelConfig& config) {
  const auto weights = std::make_shared<const Weights>(open_weights(directory, config));
  return [weights](const ParamSpec& param, std::int64_t begin, std::span<float> values) {
    read_values(weights->found.at(param.info.name), begin, values);
  };
}

void read_weights(const fs::path& directory, const ModelConfig& config, const ParamSink& sink) {
  const Weights weights = open_weights(directory, config);
  for (const auto& block : weights.blocks) {
    for (const ParamSpec& param : block->spec().params) {
      stream(weights.found.at(param.info.name), param, sink);
    }
  }
}

}  // namespace strata::models
