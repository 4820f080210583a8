#include "launch/optimizer_bytes.h"

namespace strata::launch {

std::int64_t OptimizerBytes::all_state() const {
  std::int64_t all = 0;
  for (const auto& [role, bytes] : state) {
    all += bytes;
  }
  return all;
}

OptimizerBytes optimizer_bytes(const optim::OptimizerUpdater& updater,
                               std::span<const BlockSpec> specs) {
  std::map<std::string, Role> roles;
  OptimizerBytes of;
  of.workspace = updater.workspace_bytes();
  for (std::size_t b = 0; b < specs.size(); ++b) {
    for (const ParamSpec& param : specs[b].params) {
      roles[param.info.name] = param.info.role;
    }
    for (const StateEntry& entry : updater.block(static_cast<int>(b)).entries) {
      if (entry.pack.cls != PackClass::state && entry.pack.cls != PackClass::turn_state) {
        continue;
      }
      if (entry.state == "weight" || entry.state.starts_with("weight.")) {
        of.weights += entry.size_bytes();
      } else {
        of.state[std::string(to_string(roles.at(entry.tensor)))] += entry.size_bytes();
      }
    }
  }
  return of;
}

}  // namespace strata::launch
