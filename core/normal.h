#pragma once
#include <cstdint>
#include <span>

#include "core/philox.h"

namespace strata {

/// to[i] = mean + deviation * z(first + i), rounded once. z(e) is standard normal and a function of
/// the key and the element's number e alone: four elements share one draw, by Box and Muller in
/// double. Opens the team.
void fill_normal(
    std::span<float> to, const RandomKey& key, std::int64_t first, double mean, double deviation);
/// The same, uniform in mean +- bound: an element is one word of the key.
void fill_uniform(
    std::span<float> to, const RandomKey& key, std::int64_t first, double mean, double bound);

}  // namespace strata
