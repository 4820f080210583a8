// Which settings a composition takes: those of its parts, which other settings choose.
#include "optim/composition.h"

#include <algorithm>
#include <array>
#include <iterator>

#include <fmt/format.h>

#include "core/error.h"
#include "optim/composed.h"
#include "optim/matrix_update.h"

namespace strata::optim {
namespace {

std::vector<Setting> joined(std::span<const Setting> first, std::span<const Setting> then) {
  std::vector<Setting> all;
  const auto put = [&](const Setting& setting) {
    const auto same = std::ranges::find(all, setting.name, &Setting::name);
    same == all.end() ? all.push_back(setting) : (void)(same->value = setting.value);
  };
  std::ranges::for_each(first, put);
  std::ranges::for_each(then, put);
  return all;
}

void append(std::vector<SettingInfo>& all, std::vector<SettingInfo> more) {
  std::ranges::move(more, std::back_inserter(all));
}

/// The settings of the parts that `settings` choose, with the defaults of the parts.
std::vector<SettingInfo> known_settings(std::span<const Setting> settings) {
  std::vector<SettingInfo> known = list_settings<Parts>();
  const Parts parts = read_part<Parts>("optim", settings);
  append(known, find_rule(parts.rule).settings());
  if (parts.only_matrices()) {
    append(known, list_settings<AuxParts>());
    const AuxParts aux = read_part<AuxParts>("optim", settings);
    if (aux.rule != kSameRule) {
      for (SettingInfo info : find_rule(aux.rule, "aux.rule").settings()) {
        info.name = "aux." + info.name;
        known.push_back(std::move(info));
      }
    }
  }
  append(known, matrix_update_settings(parts.subspace, parts.orthogonal, settings));
  return known;
}

/// What would bring in a part that has this setting: "optim.subspace=svd, random". Empty: nothing.
std::string brought_by(std::string_view name, std::span<const Setting> settings) {
  const auto by = [&](const std::string& key, const auto& values, std::vector<Setting> also = {}) {
    std::vector<std::string> fitting;
    for (const auto& value : values) {
      also.push_back({key, std::string(value)});
      const std::vector<SettingInfo> known = known_settings(joined(settings, also));
      if (std::ranges::find(known, name, &SettingInfo::name) != known.end()) {
        fitting.emplace_back(value);
      }
    }
    return fitting.empty() ? "" : fmt::format("optim.{}={}", key, fmt::join(fitting, ", "));
  };
  constexpr std::array<std::string_view, 1> kTrue{"true"};
  const Setting any_subspace{"subspace", "svd"}, none{"subspace", "whole"},
      plain{"orthogonal", "false"};
  for (const std::string& found : {by("subspace", choices(SubspaceKind{}), {plain}),
                                   by("remainder", choices(Remainder{}), {plain, any_subspace}),
                                   by("orthogonal", kTrue, {none}),
                                   by("rule", rule_names()),
                                   by("aux.rule", rule_names(), {plain, any_subspace})}) {
    if (!found.empty()) {
      return found;
    }
  }
  return "";
}

/// Settings of parts that are not in use, which the nearest name would not explain.
void refuse_unused(std::string_view method,
                   std::span<const Setting> preset,
                   std::span<const Setting> given) {
  const std::vector<Setting> all = joined(preset, given);
  const std::vector<SettingInfo> known = known_settings(all);
  for (const Setting& setting : given) {
    if (std::ranges::find(known, setting.name, &SettingInfo::name) == known.end()) {
      if (const std::string with = brought_by(setting.name, all); !with.empty()) {
        throw Error(Errc::config,
                    fmt::format("optim.{}: {} takes it only with {}", setting.name, method, with));
      }
    }
  }
}

}  // namespace

std::vector<SettingInfo> composition_settings(std::span<const Setting> preset,
                                              std::span<const Setting> given) {
  const std::vector<Setting> all = joined(preset, given);
  std::vector<SettingInfo> known = known_settings(all);
  for (SettingInfo& info : known) {
    const auto set = std::ranges::find(preset, info.name, &Setting::name);
    if (set != preset.end()) {
      info.default_value = set->value;
    }
  }
  return known;
}

Preset::Preset(std::string name, std::vector<Setting> settings) {
  register_method({std::move(name),
                   [settings](std::string_view method,
                              std::span<const Setting> given) -> std::unique_ptr<Optimizer> {
                     refuse_unused(method, settings, given);
                     refuse_unknown(method, given, composition_settings(settings, given));
                     return std::make_unique<Composed>(method, joined(settings, given));
                   },
                   [settings](std::span<const Setting> given) {
                     return composition_settings(settings, given);
                   }});
}

}  // namespace strata::optim
