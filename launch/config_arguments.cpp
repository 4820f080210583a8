#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/nearest.h"
#include "launch/config_sources.h"
#include "launch/fields.h"

namespace strata::launch {
namespace {

constexpr std::string_view kPrefix = "STRATA_";

std::string lower(std::string_view text) {
  std::string small(text);
  std::ranges::transform(
      small, small.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return small;
}

/// Variables are upper case, keys need not be: STRATA_MODEL__MAX_T is model.max_T.
std::string key_of_variable(std::string_view name) {
  std::string key = lower(name.substr(kPrefix.size()));
  for (std::size_t at = key.find("__"); at != std::string::npos; at = key.find("__", at + 1)) {
    key.replace(at, 2, ".");
  }
  const auto known =
      std::ranges::find_if(fields(), [&](const Field& field) { return lower(field.key) == key; });
  return known == fields().end() ? key : std::string(known->key);
}

std::string meant(std::string_view name, std::span<const Option> options) {
  const std::string setting = "--" + nearest_key(name.substr(2));
  if (name.find('.') != std::string_view::npos) {  // only settings have a dot
    return setting;
  }
  std::vector<std::string> names = {"--config", "--help", setting};
  for (const Option& option : options) {
    names.push_back(option.name);
  }
  return nearest(name, names);
}

/// Walks over a command line.
class Reader {
 public:
  Reader(std::span<const char* const> arguments, std::span<const Option> options)
      : arguments_(arguments), options_(options) {}

  Arguments read() {
    while (at_ < arguments_.size()) {
      const std::string_view argument = arguments_[at_++];
      if (argument == "-h" || argument == "--help") {
        read_.help = true;
      } else if (!argument.starts_with('-') || argument == "-") {
        read_.positional.emplace_back(argument);
      } else {
        take(argument);
      }
    }
    return std::move(read_);
  }

 private:
  void take(std::string_view argument) {
    const std::size_t equals = argument.find('=');
    const std::string name(argument.substr(0, equals));
    given_ = equals == std::string_view::npos
                 ? std::nullopt
                 : std::optional(std::string(argument.substr(equals + 1)));
    const auto option = std::ranges::find(options_, name, &Option::name);
    const std::string key = name.substr(std::min<std::size_t>(2, name.size()));
    if (option != options_.end()) {
      const std::string text = option->value.empty() ? no_value(name) : value(name);
      once(read_.options.emplace(name, text).second, name);
    } else if (name == "-c" || name == "--config") {
      once(!read_.file.has_value(), name);
      read_.file = value(name);
    } else if (name.starts_with("--") && (find_field(key) != nullptr || is_method_setting(key))) {
      read_.settings.push_back({key, {Raw::Kind::word, value(name), {}}, "command line"});
    } else {
      throw Error(Errc::config,
                  fmt::format("command line: there is no {}; the nearest is {}",
                              name,
                              meant(name.starts_with("--") ? name : "-" + name, options_)));
    }
  }

  std::string value(const std::string& name) {
    if (!given_ &&
        (at_ == arguments_.size() || std::string_view(arguments_[at_]).starts_with("--"))) {
      throw Error(Errc::config,
                  fmt::format("command line: {} needs a value: {}=VALUE", name, name));
    }
    return given_ ? *given_ : arguments_[at_++];
  }

  std::string no_value(const std::string& name) const {
    if (given_) {
      throw Error(
          Errc::config,
          fmt::format("command line: {} is a switch and takes no value, got '{}'", name, *given_));
    }
    return {};
  }

  static void once(bool first, const std::string& name) {
    if (!first) {
      throw Error(Errc::config, fmt::format("command line: {} is given twice; give it once", name));
    }
  }

  std::span<const char* const> arguments_;
  std::span<const Option> options_;
  std::size_t at_ = 0;
  std::optional<std::string> given_;  // after '='
  Arguments read_;
};

}  // namespace

std::vector<Entry> environment_entries(
    std::span<const std::pair<std::string, std::string>> environment) {
  std::vector<Entry> entries;
  for (const auto& [name, value] : environment) {
    if (name.starts_with(kPrefix) && name.find("__", kPrefix.size()) != std::string::npos) {
      entries.push_back({key_of_variable(name), {Raw::Kind::word, value, {}}, name});
    }
  }
  return entries;
}

std::vector<std::pair<std::string, std::string>> process_environment() {
  std::vector<std::pair<std::string, std::string>> found;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::size_t equals = text.find('=');
    if (text.starts_with(kPrefix) && equals != std::string_view::npos) {
      found.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return found;
}

Arguments read_arguments(std::span<const char* const> arguments, std::span<const Option> options) {
  return Reader(arguments, options).read();
}

}  // namespace strata::launch
