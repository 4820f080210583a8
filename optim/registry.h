#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "optim/optimizer.h"

namespace strata::optim {

// One setting from text; each throws config, naming the setting, what it takes and what came.
void parse(std::string_view name, std::string_view text, double& value);
void parse(std::string_view name, std::string_view text, std::int64_t& value);
void parse(std::string_view name, std::string_view text, bool& value);
void parse(std::string_view name, std::string_view text, std::string& value);
std::size_t parse_choice(std::string_view name,
                         std::string_view text,
                         std::span<const std::string_view> allowed);
std::string to_text(double value);
std::string to_text(std::int64_t value);
std::string to_text(bool value);
std::string to_text(const std::string& value);

// An enum setting offers its values by `choices(E)`, found beside the enum, in the enum's order.
template <class E>
requires std::is_enum_v<E>
void parse(std::string_view name, std::string_view text, E& value) {
  value = static_cast<E>(parse_choice(name, text, choices(value)));
}
template <class E>
requires std::is_enum_v<E> std::string to_text(E value) {
  return std::string(choices(value)[static_cast<std::size_t>(value)]);
}

/// For validate(): throws config "optim.<name>: needs <needed>, got <got>" unless `holds`.
void require(bool holds, std::string_view name, std::string_view needed, double got);
void require(bool holds, std::string_view name, std::string_view needed, std::string_view got);

/// Throws config, naming the nearest known setting, when one of `settings` is not in `known`.
void refuse_unknown(std::string_view method,
                    std::span<const Setting> settings,
                    std::span<const SettingInfo> known);

/// The settings of a Config with their defaults, from its `fields(f)`: f(name, member, help).
template <class Config>
std::vector<SettingInfo> list_settings() {
  std::vector<SettingInfo> known;
  Config config;
  config.fields([&](std::string_view name, auto& value, std::string_view help) {
    known.push_back({std::string(name), to_text(value), std::string(help)});
  });
  return known;
}

/// A checked Config from text. Throws config.
template <class Config>
Config read(std::string_view method, std::span<const Setting> settings) {
  refuse_unknown(method, settings, list_settings<Config>());
  Config config;
  config.fields([&](std::string_view name, auto& value, std::string_view) {
    for (const Setting& setting : settings) {
      if (setting.name == name) {
        parse(name, setting.value, value);
      }
    }
  });
  if constexpr (requires { config.validate(); }) {
    config.validate();
  }
  return config;
}

/// Those of `settings` that Config knows, read and checked.
template <class Config>
Config read_part(std::string_view method, std::span<const Setting> settings) {
  std::vector<Setting> own;
  for (const SettingInfo& info : list_settings<Config>()) {
    const auto given = std::ranges::find(settings, info.name, &Setting::name);
    if (given != settings.end()) {
      own.push_back(*given);
    }
  }
  return read<Config>(method, own);
}

struct Method {
  std::string name;
  std::function<std::unique_ptr<Optimizer>(std::string_view method, std::span<const Setting>)> make;
  /// Those that it takes when these are given.
  std::function<std::vector<SettingInfo>(std::span<const Setting> given)> settings;
};
/// Called while the program starts, once per method. Throws internal when the name is taken.
void register_method(Method method);

/// `const Registrar<Sgd> registrar{"sgd"};` at the end of a method's file makes it known by name.
/// T has a nested Config and a constructor from it.
template <class T>
class Registrar {
 public:
  explicit Registrar(std::string name) {
    register_method({std::move(name), &make, [](std::span<const Setting>) {
                       return list_settings<typename T::Config>();
                     }});
  }

 private:
  static std::unique_ptr<Optimizer> make(std::string_view method,
                                         std::span<const Setting> settings) {
    return std::make_unique<T>(read<typename T::Config>(method, settings));
  }
};

}  // namespace strata::optim
