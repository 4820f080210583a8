#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/file.h"
#include "core/tensor.h"

namespace strata::io {

/// One tensor of a safetensors file. `dtype` is the format's spelling ("F32", "BF16", "F16", "U8",
/// "I64").
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  // bytes, relative to the data section
};
/// The spelling of a DType, and back (throws format for one we do not hold).
std::string_view safetensors_dtype(DType dtype);
DType dtype_from_safetensors(std::string_view name, const std::filesystem::path& path);

/// Reads a safetensors file: header of at most 100,000,000 bytes, string metadata, no duplicate
/// names, tensors that cover the data section without holes or overlaps, sizes that match shape and
/// dtype, nothing behind them. Any violation throws Errc::format naming file, tensor and what was
/// found.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;
  /// Bytes [offset, offset + to.size()) of the tensor.
  void read(const SafetensorsEntry& entry, std::int64_t offset, std::span<std::byte> to) const;
  std::int64_t data_offset() const { return data_offset_; }  // in the file
  const Fd& fd() const { return fd_; }

 private:
  void read_entries();

  std::filesystem::path path_;
  Fd fd_;
  std::int64_t data_offset_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// The header of a file whose tensors are laid back to back in the order given: length prefix and
/// JSON, padded with spaces so that the data starts at a multiple of `alignment`. Fills begin and
/// end of entries.
std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata,
                               std::int64_t alignment = 4096);

}  // namespace strata::io
