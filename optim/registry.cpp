#include "optim/registry.h"

#include <charconv>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "core/error.h"
#include "core/nearest.h"
#include "optim/rule.h"

namespace strata::optim {
namespace {

std::map<std::string, Method, std::less<>>& methods() {
  static std::map<std::string, Method, std::less<>> known;
  return known;
}

std::map<std::string, RuleType, std::less<>>& rules() {
  static std::map<std::string, RuleType, std::less<>> known;
  return known;
}

const Method& find_method(std::string_view name) {
  const auto found = methods().find(name);
  if (found == methods().end()) {
    const std::vector<std::string> names = optimizer_names();
    throw Error(Errc::config,
                fmt::format("optim.method: no method '{}'; did you mean '{}'? Known: {}",
                            name,
                            nearest(name, names),
                            fmt::join(names, ", ")));
  }
  return found->second;
}

[[noreturn]] void refuse_value(std::string_view name,
                               std::string_view text,
                               std::string_view needed) {
  throw Error(Errc::config, fmt::format("optim.{}: needs {}, got '{}'", name, needed, text));
}

template <class T>
bool parse_whole(std::string_view text, T& value) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stopped == end;
}

}  // namespace

void parse(std::string_view name, std::string_view text, double& value) {
  double read = 0.0;
  if (!parse_whole(text, read) || !std::isfinite(read)) {
    refuse_value(name, text, "a number such as 0.1 or 1e-8");
  }
  value = read;
}

void parse(std::string_view name, std::string_view text, std::int64_t& value) {
  std::int64_t read = 0;
  if (!parse_whole(text, read)) {
    refuse_value(name, text, "a whole number");
  }
  value = read;
}

void parse(std::string_view name, std::string_view text, bool& value) {
  if (text != "true" && text != "false") {
    refuse_value(name, text, "true or false");
  }
  value = text == "true";
}

void parse(std::string_view, std::string_view text, std::string& value) {
  value = text;
}

std::size_t parse_choice(std::string_view name,
                         std::string_view text,
                         std::span<const std::string_view> allowed) {
  for (std::size_t i = 0; i < allowed.size(); ++i) {
    if (allowed[i] == text) {
      return i;
    }
  }
  refuse_value(name, text, fmt::format("one of {}", fmt::join(allowed, ", ")));
}

std::string to_text(double value) {
  return fmt::format("{}", value);
}
std::string to_text(std::int64_t value) {
  return fmt::format("{}", value);
}
std::string to_text(bool value) {
  return value ? "true" : "false";
}

std::string to_text(const std::string& value) {
  return value;
}

void require(bool holds, std::string_view name, std::string_view needed, double got) {
  require(holds, name, needed, std::string_view(to_text(got)));
}

void require(bool holds, std::string_view name, std::string_view needed, std::string_view got) {
  if (!holds) {
    refuse_value(name, got, needed);
  }
}

void refuse_unknown(std::string_view method,
                    std::span<const Setting> settings,
                    std::span<const SettingInfo> known) {
  std::vector<std::string> names;
  for (const SettingInfo& info : known) {
    names.push_back(info.name);
  }
  for (const Setting& setting : settings) {
    bool found = false;
    for (const std::string& name : names) {
      found = found || name == setting.name;
    }
    if (!found) {
      throw Error(Errc::config,
                  fmt::format("optim.{}: {} has no such setting; did you mean 'optim.{}'?",
                              setting.name,
                              method,
                              nearest(setting.name, names)));
    }
  }
}

void register_rule(RuleType type) {
  std::string name = type.name;
  if (!rules().emplace(std::move(name), std::move(type)).second) {
    throw Error(Errc::internal, "optim: two rules of one name");
  }
}

const RuleType& find_rule(std::string_view name, std::string_view setting) {
  const auto found = rules().find(name);
  if (found == rules().end()) {
    const std::vector<std::string> names = rule_names();
    refuse_value(setting, name, fmt::format("one of {}", fmt::join(names, ", ")));
  }
  return found->second;
}

std::vector<std::string> rule_names() {
  std::vector<std::string> names;
  for (const auto& [name, type] : rules()) {
    names.push_back(name);
  }
  return names;
}

void register_method(Method method) {
  std::string name = method.name;
  if (!methods().emplace(std::move(name), std::move(method)).second) {
    throw Error(Errc::internal, "optim: two methods of one name");
  }
}

std::unique_ptr<Optimizer> make_optimizer(std::string_view method,
                                          std::span<const Setting> settings) {
  const Method& found = find_method(method);
  return found.make(found.name, settings);
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const auto& [name, method] : methods()) {
    names.push_back(name);
  }
  return names;
}

std::vector<SettingInfo> optimizer_settings(std::string_view method,
                                            std::span<const Setting> given) {
  return find_method(method).settings(given);
}

}  // namespace strata::optim
