#include "launch/args.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/config_sources.h"

namespace strata::launch {
namespace {

bool parses(const std::string& text, CommandOption::Kind kind) {
  const char* end = text.data() + text.size();
  if (kind == CommandOption::Kind::integer) {
    std::int64_t value = 0;
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc{} && result.ptr == end;
  }
  if (kind == CommandOption::Kind::number) {
    double value = 0;
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc{} && result.ptr == end && std::isfinite(value);
  }
  return true;
}

}  // namespace

Args::Args(std::string command,
           std::span<const std::string> words,
           const std::vector<std::string>& positional,
           std::vector<CommandOption> options)
    : command_(std::move(command)), options_(std::move(options)) {
  const auto fail = [&](const std::string& what) {
    throw Error(Errc::config,
                fmt::format("{}: {}; see strata {} --help", command_, what, command_));
  };
  std::vector<const char*> raw;
  for (const std::string& word : words) {
    raw.push_back(word.c_str());
  }
  std::vector<Option> known;
  for (const CommandOption& o : options_) {
    const bool shown = o.kind != CommandOption::Kind::flag && !o.default_value.empty();
    known.push_back({o.name,
                     o.kind == CommandOption::Kind::flag ? "" : "VALUE",
                     shown ? fmt::format("{} [{}]", o.help, o.default_value) : o.help});
  }
  Arguments read = read_arguments(raw, known);
  if (read.help) {
    help_ = true;
    std::string line = command_;
    for (const std::string& word : positional) {
      line += " " + word;
    }
    std::printf("usage: strata %s [OPTIONS]\n\n%s", line.c_str(), options_help(known).c_str());
    return;
  }
  if (!read.settings.empty() || read.file) {
    fail(fmt::format("takes no settings, got {}",
                     read.settings.empty() ? read.file->string() : "--" + read.settings[0].key));
  }
  positional_ = std::move(read.positional);
  values_ = std::move(read.options);
  if (positional_.size() != positional.size()) {
    fail(
        fmt::format("needs {}, got {} of {} words",
                    positional.empty() ? "no words" : fmt::format("{}", fmt::join(positional, " ")),
                    positional_.size(),
                    positional.size()));
  }
  for (const CommandOption& o : options_) {
    const auto value = values_.find(o.name);
    if (value == values_.end()) {
      if (o.presence == CommandOption::Presence::required) {
        fail(fmt::format("{} is missing ({})", o.name, o.help));
      }
    } else if (!parses(value->second, o.kind)) {
      const bool integer = o.kind == CommandOption::Kind::integer;
      fail(fmt::format(
          "{} needs {}, got '{}'", o.name, integer ? "an integer" : "a number", value->second));
    }
  }
}

const CommandOption& Args::option(std::string_view name) const {
  const auto it = std::find_if(
      options_.begin(), options_.end(), [&](const CommandOption& o) { return o.name == name; });
  STRATA_ASSERT(it != options_.end());
  return *it;
}

bool Args::flag(std::string_view name) const {
  return values_.contains(option(name).name);
}

const std::string& Args::text(std::string_view name) const {
  const auto it = values_.find(std::string(name));
  return it == values_.end() ? option(name).default_value : it->second;
}

std::int64_t Args::integer(std::string_view name) const {
  return std::stoll(text(name));
}
double Args::number(std::string_view name) const {
  return std::stod(text(name));
}

}  // namespace strata::launch
