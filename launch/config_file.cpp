// The only file that includes toml++: it is as heavy to compile as the rest of the folder.
#include <algorithm>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "core/error.h"
#include "launch/config_sources.h"
#include "launch/fields.h"

namespace strata::launch {
namespace {

Raw raw_list(const toml::array& array) {
  Raw raw{Raw::Kind::list, {}, {}};
  for (const toml::node& item : array) {
    const auto* text = item.as_string();
    if (text == nullptr) {
      return {Raw::Kind::other, "a list with something other than texts", {}};
    }
    raw.items.push_back(text->get());
  }
  return raw;
}

Raw raw_value(const toml::node& node) {
  if (const auto* text = node.as_string()) {
    return {Raw::Kind::text, text->get(), {}};
  }
  if (const auto* integer = node.as_integer()) {
    return {Raw::Kind::integer, std::to_string(integer->get()), {}};
  }
  if (const auto* real = node.as_floating_point()) {
    return {Raw::Kind::real, fmt::format("{}", real->get()), {}};
  }
  if (const auto* boolean = node.as_boolean()) {
    return {Raw::Kind::boolean, boolean->get() ? "true" : "false", {}};
  }
  if (const auto* array = node.as_array()) {
    return raw_list(*array);
  }
  return {Raw::Kind::other, node.is_table() ? "a table" : "a date or time", {}};
}

void flatten(const toml::table& table,
             const std::string& prefix,
             const std::string& file,
             std::vector<Entry>& entries) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    const auto* inner = node.as_table();
    if (inner != nullptr && find_field(key) == nullptr) {
      flatten(*inner, key + ".", file, entries);
    } else {
      entries.push_back(
          {key, raw_value(node), fmt::format("{}:{}", file, name.source().begin.line)});
    }
  }
}

}  // namespace

std::vector<Entry> read_config_file(const std::filesystem::path& file) {
  if (!is_regular_file(file)) {
    throw Error(Errc::config,
                fmt::format("config: {} is not a file; -c names a TOML file", file.string()));
  }
  std::vector<Entry> entries;
  try {
    flatten(toml::parse_file(file.string()), "", file.string(), entries);
  } catch (const toml::parse_error& error) {
    std::string what(error.description());
    std::ranges::replace(what, '\n', ' ');
    throw Error(Errc::config,
                fmt::format("config: {}:{}: {}", file.string(), error.source().begin.line, what));
  }
  return entries;
}

}  // namespace strata::launch
