#include "launch/args.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "core/error.h"
#include "core/nearest.h"

namespace strata::launch {
namespace {

[[noreturn]] void fail(std::string_view command, const std::string& what) {
  throw Error(Errc::config, fmt::format("{}: {}; see strata {} --help", command, what, command));
}

bool parses(const std::string& text, Option::Kind kind) {
  const char* end = text.data() + text.size();
  if (kind == Option::Kind::integer) {
    std::int64_t value = 0;
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc{} && result.ptr == end;
  }
  if (kind == Option::Kind::number) {
    double value = 0;
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc{} && result.ptr == end && std::isfinite(value);
  }
  return true;
}

}  // namespace

Args::Args(std::string_view command,
           std::span<const std::string> words,
           std::vector<std::string> positional,
           std::vector<Option> options)
    : command_(command), options_(std::move(options)) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (!word.starts_with("-") || word == "-") {
      positional_.push_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto known = std::find_if(
        options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
    if (known == options_.end()) {
      std::vector<std::string> names;
      for (const Option& o : options_) {
        names.push_back(o.name);
      }
      const std::string near = nearest(name, names);
      fail(command_,
           fmt::format("unknown option '{}'{}",
                       name,
                       near.empty() ? "" : fmt::format(", did you mean {}?", near)));
    }
    if (known->kind == Option::Kind::flag) {
      if (equals != std::string::npos) {
        fail(command_, fmt::format("{} takes no value, got '{}'", name, word));
      }
      values_[name] = "true";
    } else if (equals != std::string::npos) {
      set(*known, word.substr(equals + 1));
    } else if (i + 1 < words.size()) {
      set(*known, words[++i]);
    } else {
      fail(command_, fmt::format("{} needs a value", name));
    }
  }
  if (positional_.size() != positional.size()) {
    fail(command_,
         fmt::format("needs {} ({}), got {}",
                     positional.size(),
                     fmt::join(positional, " "),
                     positional_.size()));
  }
  for (const Option& o : options_) {
    if (o.presence == Option::Presence::required && !values_.contains(o.name)) {
      fail(command_, fmt::format("{} is missing ({})", o.name, o.help));
    }
  }
}

void Args::set(const Option& o, std::string value) {
  if (!parses(value, o.kind)) {
    fail(command_,
         fmt::format("{} needs {}, got '{}'",
                     o.name,
                     o.kind == Option::Kind::integer ? "an integer" : "a number",
                     value));
  }
  values_[o.name] = std::move(value);
}

const Option& Args::option(std::string_view name) const {
  const auto it = std::find_if(
      options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
  STRATA_ASSERT(it != options_.end());
  return *it;
}

bool Args::flag(std::string_view name) const {
  return values_.contains(option(name).name);
}

const std::string& Args::text(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? option(name).default_value : it->second;
}

std::int64_t Args::integer(std::string_view name) const {
  return std::stoll(text(name));
}
double Args::number(std::string_view name) const {
  return std::stod(text(name));
}

}  // namespace strata::launch
