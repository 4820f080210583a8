#pragma once
#include <cstdint>

#include "core/philox.h"

namespace strata {

/// to[4 * i + w] = key.words(first + i)[w] for i in [0, draws): the same words, several draws at
/// once. Opens no team.
void fill_words(std::uint32_t* to, const RandomKey& key, std::uint64_t first, std::int64_t draws);

}  // namespace strata
