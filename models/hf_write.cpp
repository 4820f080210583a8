#include <algorithm>
#include <cstring>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "models/hf.h"

namespace strata::models {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPieceElements = 1 << 20;
constexpr std::string_view kWeightsFile = "model.safetensors", kConfigFile = "config.json";

/// A directory beside the final one, removed with all it holds unless it was published.
class Staging {
 public:
  explicit Staging(const fs::path& target)
      : target_(target),
        path_(target.parent_path() /
              fmt::format(".{}.staging-{}", target.filename().string(), getpid())) {
    std::error_code failed;
    fs::create_directories(path_.parent_path(), failed);
    fs::remove_all(path_, failed);  // of a process that died and had our number
    fs::create_directory(path_, failed);
    if (failed) {
      throw Error(Errc::io,
                  fmt::format("export: cannot create {}: {}", path_.string(), failed.message()));
    }
  }
  ~Staging() {
    std::error_code ignored;
    if (!path_.empty()) {
      fs::remove_all(path_, ignored);
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const fs::path& path() const { return path_; }
  void publish() {
    io::sync_directory(path_);
    io::rename_new(path_, target_);
    path_.clear();
    io::sync_directory(target_.parent_path());
  }

 private:
  fs::path target_, path_;
};

void write_file(const fs::path& path, std::string_view content) {
  const io::Fd fd = io::open_file(path, io::Open::create_new);
  io::write_all(fd, path, 0, std::as_bytes(std::span(content)));
  io::sync_file(fd, path);
}

std::span<const std::byte> narrow(std::span<std::byte> to,
                                  std::span<const float> from,
                                  DType dtype) {
  const auto bytes = to.first(from.size() * static_cast<std::size_t>(size_bytes(dtype)));
  if (dtype == DType::f32) {
    std::memcpy(bytes.data(), from.data(), bytes.size());
  } else {
    for (std::size_t i = 0; i < from.size(); ++i) {
      const bf16 rounded = to_bf16(from[i]);
      std::memcpy(bytes.data() + 2 * i, &rounded, 2);
    }
  }
  return bytes;
}

/// Own parameters of all blocks in the order of the safetensors library: by name.
std::vector<ParamSpec> params_by_name(const ModelConfig& config) {
  std::vector<ParamSpec> params;
  for (const auto& block : build_blocks(config)) {
    const auto& own = block->spec().params;
    params.insert(params.end(), own.begin(), own.end());
  }
  std::sort(params.begin(), params.end(), [](const ParamSpec& a, const ParamSpec& b) {
    return a.info.name < b.info.name;
  });
  return params;
}

void write_weights(const fs::path& path,
                   const ModelConfig& config,
                   DType dtype,
                   const ParamSource& source) {
  const std::vector<ParamSpec> params = params_by_name(config);
  std::vector<io::SafetensorsEntry> entries;
  for (const ParamSpec& param : params) {
    const Shape& shape = param.info.shape;
    entries.push_back(
        {param.info.name, std::string(io::safetensors_dtype(dtype)), {shape.begin(), shape.end()}});
  }
  // "format": "pt" and 8-byte alignment are what transformers writes, and the former it demands.
  const std::string header = io::safetensors_header(entries, {{"format", "pt"}}, 8);
  const io::Fd fd = io::open_file(path, io::Open::create_new);
  io::write_all(fd, path, 0, std::as_bytes(std::span(header)));
  std::vector<float> values(static_cast<std::size_t>(kPieceElements));
  std::vector<std::byte> raw(values.size() * static_cast<std::size_t>(size_bytes(dtype)));
  for (std::size_t p = 0; p < params.size(); ++p) {
    const std::int64_t numel = params[p].info.shape.numel();
    for (std::int64_t begin = 0; begin < numel; begin += kPieceElements) {
      const auto n = static_cast<std::size_t>(std::min(kPieceElements, numel - begin));
      const std::span<float> piece = std::span(values).first(n);
      source(params[p], begin, piece);
      const std::int64_t at =
          static_cast<std::int64_t>(header.size()) + entries[p].begin + begin * size_bytes(dtype);
      io::write_all(fd, path, at, narrow(raw, piece, dtype));
    }
  }
  io::sync_file(fd, path);
}

void check_names(std::span<const ExtraFile> extra) {
  for (const ExtraFile& file : extra) {
    const fs::path name = file.name;
    STRATA_ASSERT(!name.empty() && name == name.filename() && name != kWeightsFile &&
                  name != kConfigFile);
  }
}

/// Refuses before anything is written.
void check_absent(const fs::path& target) {
  std::error_code ignored;
  if (fs::exists(target, ignored)) {
    throw Error(Errc::config,
                fmt::format("export: {} exists already; name another directory or remove it",
                            target.string()));
  }
}

void check_space(const fs::path& directory, std::int64_t need_bytes) {
  if (const std::int64_t free = io::free_bytes(directory); free < need_bytes) {
    throw Error(
        Errc::io,
        fmt::format(
            "export: {} needs {} bytes, {} are free", directory.string(), need_bytes, free));
  }
}

}  // namespace

void write_model(const fs::path& directory,
                 const ModelConfig& config,
                 DType dtype,
                 const ParamSource& source,
                 std::span<const ExtraFile> extra) {
  STRATA_ASSERT(dtype == DType::f32 || dtype == DType::bf16);
  fs::path target = fs::absolute(directory).lexically_normal();
  if (!target.has_filename()) {  // "out/" means "out"
    target = target.parent_path();
  }
  check_names(extra);
  check_absent(target);
  Staging staging(target);
  check_space(staging.path(), parameter_count(config) * size_bytes(dtype));
  write_weights(staging.path() / kWeightsFile, config, dtype, source);
  write_file(staging.path() / kConfigFile, config_json(config, dtype));
  for (const ExtraFile& file : extra) {
    write_file(staging.path() / file.name, file.content);
  }
  staging.publish();
}

}  // namespace strata::models
