#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace strata {

/// Insertions, deletions and replacements of characters that turn a into b (Levenshtein).
std::int64_t edit_distance(std::string_view a, std::string_view b);

/// The name with the smallest edit distance to `wanted`, the first of equals; empty only when there
/// are no names. For "did you mean" in messages.
std::string nearest(std::string_view wanted, std::span<const std::string> names);

}  // namespace strata
