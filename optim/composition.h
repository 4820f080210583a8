#pragma once
#include <string>
#include <vector>

#include "optim/registry.h"

namespace strata::optim {

/// `const Preset galore{"galore", {{"subspace", "svd"}, ...}};` makes a method of parts: settings
/// of the composition (`strata config schema` lists them) with other defaults.
struct Preset {
  Preset(std::string name, std::vector<Setting> settings);
};

/// Settings that a composition takes when these are given: its own, those of its rule, and those of
/// the parts in use.
std::vector<SettingInfo> composition_settings(std::span<const Setting> preset,
                                              std::span<const Setting> given);

}  // namespace strata::optim
