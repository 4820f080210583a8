#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace strata::optim {

/// What of a matrix's gradient a rule's moments see.
enum class SubspaceKind : std::uint8_t {
  whole,
  svd,          // leading singular vectors of the gradient on its short side (GaLore)
  random,       // a random orthonormal basis of the short side
  gaussian,     // entries N(0, 1/rank), not orthonormal (APOLLO)
  columns,      // some columns
  rows,         // some rows
  coordinates,  // some elements of every chunk
};
constexpr std::array<std::string_view, 7> choices(SubspaceKind) {
  return {"whole", "svd", "random", "gaussian", "columns", "rows", "coordinates"};
}

}  // namespace strata::optim
