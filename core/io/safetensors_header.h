#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/safetensors.h"

namespace strata::io {

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of the text
  std::map<std::string, std::string> metadata;
};

/// The JSON part of a header, checked for form: types, duplicate and unknown keys, signs. Offsets
/// are not compared with each other or with the file. Throws format naming the file.
SafetensorsHeader parse_safetensors_header(std::string_view json,
                                           const std::filesystem::path& path);

/// The same, written: metadata first, tensors in the order given.
std::string safetensors_json(const std::vector<SafetensorsEntry>& entries,
                             const std::map<std::string, std::string>& metadata);

}  // namespace strata::io
