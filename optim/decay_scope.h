#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "core/param.h"

namespace strata::optim {

/// Which parameters weight decay acts on.
enum class DecayScope : std::uint8_t { matrices, no_vectors, all };
constexpr std::array<std::string_view, 3> choices(DecayScope) {
  return {"matrices", "no_vectors", "all"};
}
inline bool decays(DecayScope scope, Role role) {
  return scope == DecayScope::all || role == Role::matrix ||
         (scope == DecayScope::no_vectors && role != Role::vector);
}

}  // namespace strata::optim
