#include "launch/provenance.h"

#include <cstdio>

#include "core/cpu/simd.h"
#include "core/matmul.h"

namespace strata::launch {

std::map<std::string, std::string> numeric_environment(Summation summation, int ranks) {
  return {{"isa", cpu::to_string(cpu::isa_level())},
          {"bf16", cpu::has_bf16_dot() ? "dot" : "widened"},
          {"matmul", matmul_library()},
          {"device", "cpu"},
          {"ranks", summation == Summation::elastic ? "any" : std::to_string(ranks)}};
}

void warn_of_differences(const RunState& state,
                         const Settings& settings,
                         const std::map<std::string, std::string>& environment) {
  if (state.numeric_hash != settings.numeric_hash()) {
    for (const auto& [key, value] : settings.values()) {
      const auto old = state.settings.find(key);
      if (old != state.settings.end() && old->second != value.text) {
        std::fprintf(stderr,
                     "  %s was %s, is now %s (%s)\n",
                     key.c_str(),
                     old->second.c_str(),
                     value.text.c_str(),
                     value.origin.c_str());
      }
    }
  }
  for (const auto& [key, value] : environment) {
    const auto old = state.numeric_environment.find(key);
    if (old != state.numeric_environment.end() && old->second != value) {
      std::fprintf(
          stderr,
          "strata: warning: %s was %s and is %s: bits may differ from an undisturbed run\n",
          key.c_str(),
          old->second.c_str(),
          value.c_str());
    }
  }
}

}  // namespace strata::launch
